"""``newllm start`` and ``newllm run`` without a number: what stands there at once, and what is refused before it."""

import pytest

from newllm import cli
from newllm.commands import start, start_run
from newllm.commands.shared import available_notebooks, notebook_title
from newllm.commands.start_run import PageView
from newllm.files import outputs_folder
from newllm.publication.start_page import StartPage
from newllm.runs.outlook import Outlook, Row
from newllm.runs.watching import Nothing


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))


def test_what_cannot_be_run_is_refused_before_a_page_is_written(capsys):
    assert cli.main(["start", "-p", "sampels=3"]) == 2
    assert "did you mean samples?" in capsys.readouterr().out
    assert not outputs_folder().exists()


def test_the_page_is_there_before_the_work_begins(monkeypatch):
    seen = []

    def work(options, target):
        seen.append(target.read_text(encoding="utf-8"))
        return 7

    monkeypatch.setattr(start_run, "run", work)
    assert cli.main(["start", "--no-browser"]) == 7
    assert "Getting ready" in seen[0]


def test_a_browser_is_opened_where_somebody_sees_it(monkeypatch):
    monkeypatch.setattr(start.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not start.has_browser()
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(start.sys.stdout, "isatty", lambda: True)
    assert start.has_browser()


def test_the_page_follows_the_work(tmp_path):
    target = tmp_path / "start.html"
    row = Row("mla", 0, "training", 0.5, {"held-out": 4.25}, 30.0, is_running=True, is_done=False)
    view = PageView(StartPage("Getting ready."), target, Nothing())
    view.show(Outlook((row,), passed=10.0, left=75.0))
    page = target.read_text(encoding="utf-8")
    assert all(text in page for text in ("0 of 1 models", "1 min 15 s left", "held-out 4.250", "mla, seed 0"))
    view.close()
    assert "are trained" in target.read_text(encoding="utf-8")


def test_without_a_number_the_notebooks_are_shown_by_their_questions(capsys):
    assert cli.main(["run"]) == 0
    shown = capsys.readouterr().out
    for name in available_notebooks():
        assert f"{name[:2]}  {notebook_title(name)}" in shown
    assert "what does a smaller cache cost?" in shown

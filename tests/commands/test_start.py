"""``newllm start`` and ``newllm run`` without a number: what stands there at once, and what is refused before it."""

import pytest

from newllm import cli
from newllm.commands import start, start_run
from newllm.commands.page_view import INTERRUPTED, PageView
from newllm.commands.shared import available_notebooks, notebook_title
from newllm.config.errors import ParameterError
from newllm.files import outputs_folder
from newllm.publication.start_page import StartPage
from newllm.runs.outlook import Outlook, Row


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))


def test_what_cannot_be_run_is_refused_before_a_page_is_written(capsys):
    assert cli.main(["start", "-p", "sampels=3"]) == 2
    assert "did you mean samples?" in capsys.readouterr().out
    assert not outputs_folder().exists()


def test_text_files_that_are_not_there_are_refused_before_the_work_is_imported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    page = outputs_folder() / start.PAGE
    page.parent.mkdir()
    page.write_text("a finished page")
    (tmp_path / "a.pdf").write_bytes(b"no text")
    for command, given, said in (
        ("start", tmp_path / "gone", "no file matches"),
        ("start", tmp_path / "*.pdf", "only .txt and .jsonl files are read"),
        ("run 02", tmp_path / "gone", "no file matches"),
        ("train pythia", tmp_path / "gone", "no file matches"),
    ):
        assert cli.main([*command.split(), "-p", "source=text", "-p", f"text_files=[{given}]"]) == 2
        assert said in capsys.readouterr().out
    assert page.read_text() == "a finished page"


@pytest.mark.parametrize("before", [None, "a finished page"])
def test_what_is_refused_later_leaves_the_page_that_was_there(before, monkeypatch):
    page = outputs_folder() / start.PAGE
    if before is not None:
        page.parent.mkdir()
        page.write_text(before)

    def refuse(options, view):
        view.update(state="At work.")
        raise ParameterError("samples is too many.")

    monkeypatch.setattr(start_run, "run", refuse)
    assert cli.main(["start", "--no-browser"]) == 2
    if before is None:
        assert "Nothing was run: samples is too many." in page.read_text(encoding="utf-8")
    else:
        assert page.read_text(encoding="utf-8") == before


def test_an_interrupted_page_says_so_and_shows_no_work(tmp_path, monkeypatch):
    def work(options, view):
        row = Row("mla", 0, "training", 0.5, {}, 734.0, is_running=True, is_done=False)
        view.show(Outlook((row,), passed=10.0, left=734.0))
        raise KeyboardInterrupt

    monkeypatch.setattr(start_run, "run", work)
    assert cli.main(["start", "--no-browser"]) == 130
    page = (outputs_folder() / start.PAGE).read_text(encoding="utf-8")
    assert INTERRUPTED in page and "12 min" not in page and "location.reload" not in page


def test_the_page_is_there_before_the_work_begins(monkeypatch):
    seen = []

    def work(options, view):
        seen.append(view.target.read_text(encoding="utf-8"))
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


def test_the_page_follows_the_work(tmp_path, monkeypatch):
    target = tmp_path / "start.html"
    row = Row("mla", 0, "training", 0.5, {"held-out": 4.25}, 30.0, is_running=True, is_done=False)
    view = PageView(StartPage("Getting ready."), target)
    monkeypatch.setattr(view, "_written", 0.0)
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

import importlib
import logging
import os

import pytest

from newllm import cli


@pytest.mark.parametrize("below", ["file/table.csv", "/proc/nothing/table.csv", "pipe"])
def test_a_table_that_cannot_be_written_is_refused_before_any_work(below, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"{name} was begun"))
    monkeypatch.setattr(cli, "_log_to_the_terminal", lambda: None)
    with caplog.at_level(logging.ERROR):
        assert cli.main(["models", "--output", str(tmp_path / below)]) == 2
    assert "cannot be written" in caplog.text or "which is no file" in caplog.text


@pytest.mark.parametrize(
    "command", ["run 02 --profile smoke", "start", "train pythia --profile smoke", "sweep sotu", "leaderboard", "lab"]
)
@pytest.mark.parametrize("below", ["file/sub", "file", "/proc/nothing/here"])
def test_outputs_that_cannot_be_written_are_refused_before_any_work(command, below, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / below))
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"{name} was begun"))
    monkeypatch.setattr(cli, "_log_to_the_terminal", lambda: None)
    with caplog.at_level(logging.ERROR):
        assert cli.main(command.split()) == 2
    assert "cannot be written" in caplog.text
    assert "NEWLLM_OUTPUTS moves all of them" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

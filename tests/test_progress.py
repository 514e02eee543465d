"""Stages: what a listener is told, and what is drawn where nobody listens."""

import logging
import sys

import pytest
from tqdm.contrib.logging import logging_redirect_tqdm

from newllm import progress
from newllm.progress import Stage, stage, told_to


def test_a_listener_hears_the_beginning_every_step_and_the_end():
    heard, numbers = [], {}

    def listen(told: Stage) -> None:
        heard.append((told.name, told.done, told.ended))
        numbers.update(told.numbers)

    with told_to(listen), pytest.raises(ZeroDivisionError), stage("training", 3, done=1) as told:
        told.advance(loss=2.0)
        raise ZeroDivisionError
    assert heard == [("training", 1, False), ("training", 2, False), ("training", 2, True)]
    assert numbers == {"loss": 2.0}
    with stage("training", 3) as told:
        told.advance()
    assert len(heard) == 3


def test_what_is_no_terminal_gets_a_line_now_and_then_and_nothing_of_what_is_quick(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("newllm"), "propagate", True)
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "newllm"), stage("certificate", 2, "check") as told:
        told.advance(leak=0.5)
        told.advance()
    assert any("certificate" in line and "/2" in line and "leak 0.5" in line for line in caplog.messages)
    caplog.clear()
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 60.0)
    with caplog.at_level(logging.INFO, "newllm"), stage("certificate", 2) as told:
        told.advance(2)
    assert caplog.messages == []


def test_what_others_log_beside_a_line_comes_once(monkeypatch, capsys):
    """Whoever writes past bars has them drawn again; a line would be logged, and that written past it, without end."""
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    newllm = logging.getLogger("newllm")
    monkeypatch.setattr(newllm, "handlers", [logging.StreamHandler(sys.stdout)])
    monkeypatch.setattr(newllm, "level", logging.INFO)
    with logging_redirect_tqdm([newllm]), stage("measuring", 2, "model") as told:
        for name in ("one", "two"):
            told.advance()
            newllm.info("%s is measured", name)
    said = capsys.readouterr()
    assert said.out.count("is measured") == 2 and said.out.count("measuring") <= 3
    assert "Error" not in said.err

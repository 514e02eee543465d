"""Views of a comparison: drawn from its files while it runs, and gone afterwards."""

import io
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from newllm.commands import terminal_view
from newllm.notebook import live_view
from newllm.runs.outlook import Outlook, outlook
from newllm.runs.progress import Plan, PlannedTrial, TrialState, read_plan
from newllm.runs.watching import watched

ARM = "mla@note=<b>"


def plan_of(folder: Path, count: int = 2) -> Plan:
    expected = {"training": 10.0}
    trials = [PlannedTrial(arm=ARM, seed=seed, folder=folder / str(seed), expected=expected) for seed in range(count)]
    return Plan(started_at=time.time(), processes=1, trials=tuple(trials))


def found(tmp_path: Path, count: int = 2) -> Outlook:
    now = time.time()
    state = TrialState(stage="training", done=5, total=10, numbers={"train": 3.25}, started_at=now, written_at=now)
    return outlook(plan_of(tmp_path, count), {tmp_path / "0": state}, now)


class Seen:
    def __init__(self) -> None:
        self.outlooks: list[Outlook] = []
        self.is_closed = False

    def show(self, found: Outlook) -> None:
        assert not self.is_closed
        self.outlooks.append(found)

    def close(self) -> None:
        self.is_closed = True


def test_a_view_sees_the_comparison_while_it_runs(tmp_path):
    view = Seen()
    with watched(partial(read_plan, tmp_path, since=time.time()), view):
        with plan_of(tmp_path).written(tmp_path):
            deadline = time.monotonic() + 20
            while not view.outlooks and time.monotonic() < deadline:
                time.sleep(0.05)
        assert not view.is_closed
    assert view.outlooks and view.is_closed


def test_a_terminal_and_a_notebook_show_each_trial_and_the_time_left(tmp_path):
    text = io.StringIO()
    Console(file=text, width=120).print(terminal_view.drawn(found(tmp_path)))
    page = live_view.drawn(found(tmp_path))
    for shown in (text.getvalue(), page):
        assert "train 3.25" in shown and "0 of 2 trials done" in shown and "left" in shown
    assert f"{ARM} 0" in text.getvalue()
    assert "<b>" not in page and page.count("<progress") == 2


def test_of_many_trials_a_terminal_shows_those_that_run(tmp_path):
    text = io.StringIO()
    Console(file=text, width=120).print(terminal_view.drawn(found(tmp_path, count=100)))
    assert text.getvalue().count(ARM) == 1 and "0 of 100 trials done" in text.getvalue()

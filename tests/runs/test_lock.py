"""Run folders belong to one process at a time, and to nobody when that process is gone."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from newllm.runs import lock
from newllm.runs.folder import Run
from newllm.runs.lock import LOCK_FILE, RunError, locked


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.01)


class Owner:
    """Another process that works in a folder until it is told to stop, or killed."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("fork")
        self.works, self.stop = context.Event(), context.Event()
        self.process = context.Process(target=self._work, args=(folder,))
        self.process.start()
        assert self.works.wait(30)

    def _work(self, folder: Path) -> None:
        with locked(folder):
            self.works.set()
            self.stop.wait(60)


def test_the_second_process_is_told_who_works_there_and_waits(tmp_path, caplog):
    owner = Owner(tmp_path / "run")
    said = rf"process {owner.process.pid} on {os.uname().nodename} works in .*wait for it"
    with pytest.raises(RunError, match=said), locked(tmp_path / "run", wait=False):
        pytest.fail("two at once")
    threading.Timer(0.3, owner.stop.set).start()
    with caplog.at_level("INFO"), locked(tmp_path / "run"):
        owner.process.join(10)
        assert owner.process.exitcode == 0
    assert f"process {owner.process.pid}" in caplog.text
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_owner_owns_nothing(tmp_path):
    owner = Owner(tmp_path)
    assert owner.process.pid
    os.kill(owner.process.pid, signal.SIGKILL)
    owner.process.join(10)
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path, wait=False):
        assert str(os.getpid()) in (tmp_path / LOCK_FILE).read_text()


@pytest.mark.parametrize("content", ["", "filelock/2\npid"])
def test_a_lock_that_was_not_signed_to_its_end_goes_when_the_lease_is_over(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.2)
    (tmp_path / LOCK_FILE).write_text(content)
    start = time.monotonic()
    with locked(tmp_path):
        assert time.monotonic() - start < 20


def test_a_silent_owner_of_another_machine_is_followed_when_the_lease_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.3)
    marker = "filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=abc\nduration=0.3\n"
    (tmp_path / LOCK_FILE).write_text(marker)
    with pytest.raises(RunError, match="process 1 on elsewhere works in"), locked(tmp_path, wait=False):
        pytest.fail("two at once")
    with locked(tmp_path):
        assert "elsewhere" not in (tmp_path / LOCK_FILE).read_text()


def test_a_run_with_a_trial_that_somebody_works_on_is_not_deleted(tmp_path):
    run, trial = Run(tmp_path / "run", {"lr": 1}), Run(tmp_path / "run" / "trial", {"seed": 0})
    for each in (run, trial):
        each.start()
    trial.write_text("value", "1")
    owner = Owner(trial.folder)
    with pytest.raises(RunError, match=f"process {owner.process.pid}"):
        run.clear()
    assert (trial.folder / "value").exists()
    owner.stop.set()
    owner.process.join(10)
    run.clear()
    assert not trial.folder.exists()


def test_what_another_process_finished_meanwhile_is_finished(tmp_path):
    run, same = (Run(tmp_path / "run", {"seed": 0}) for _ in range(2))
    with run.work():
        run.start()
        run.finish(1.0)
    assert not same.is_finished
    with same.work():
        assert same.is_finished

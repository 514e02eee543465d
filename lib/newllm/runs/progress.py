"""How far a comparison is, as files: written by who works, read by whoever shows it, in this process or in another one.

``progress.json`` in the folder of a comparison says which trials are run and what is expected of each; one in the
folder of a trial says what it is doing. They are deleted when there is nothing left to do.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from newllm.files import write_atomically
from newllm.progress import Stage, told_to

PROGRESS_FILE = "progress.json"

# A state is written at most so often, but for beginnings and ends.
WRITE_EVERY_SECONDS = 1.0


class TrialState(BaseModel):
    """What a trial is doing.

    Attributes
    ----------
    stage
        The stage it is in, or was in last; empty before the first one.
    done, total
        Steps of that stage.
    skipped
        How many of them an earlier process did: they took none of the time.
    seconds
        How long each stage has taken so far, by name; one that was finished before is not among them.
    numbers
        What was found so far, by name: losses, rates.
    started_at, written_at
        Seconds since 1970.
    """

    model_config = ConfigDict(frozen=True)

    stage: str = ""
    done: int = 0
    total: int | None = None
    skipped: int = 0
    seconds: dict[str, float] = {}
    numbers: dict[str, float] = {}
    started_at: float
    written_at: float


class PlannedTrial(BaseModel):
    """A trial of a comparison, as whoever shows it needs it.

    Attributes
    ----------
    arm, seed
        Which one.
    folder
        Where it is run.
    expected
        Seconds of each stage, by name.
    seconds
        How long it took; None where it is not done.
    loss
        Held-out loss at the end, in nats per token; None where it is not done, or failed.
    failed
        Whether it came to no end.
    """

    model_config = ConfigDict(frozen=True)

    arm: str
    seed: int
    folder: Path
    expected: dict[str, float]
    seconds: float | None = None
    loss: float | None = None
    failed: bool = False


class Plan(BaseModel):
    """Which trials are run, and on how many processes.

    Attributes
    ----------
    started_at
        Seconds since 1970.
    processes
        How many trials run side by side.
    start_seconds
        What passes until the first of them begins.
    trials
        All of them, in the order in which they are begun.
    """

    model_config = ConfigDict(frozen=True)

    started_at: float
    processes: int
    start_seconds: float = 0.0
    trials: tuple[PlannedTrial, ...]

    @contextlib.contextmanager
    def written(self, folder: Path) -> Iterator[None]:
        """Write the plan into the folder of a comparison, and delete it at the end, unless another's stands there."""
        self.write(folder)
        try:
            yield
        finally:
            there = read_plan(folder)
            if there is not None and there.started_at == self.started_at:
                (folder / PROGRESS_FILE).unlink(missing_ok=True)

    def write(self, folder: Path) -> None:
        """Write the plan as it is now."""
        write_atomically(folder / PROGRESS_FILE, self.model_dump_json())

    def ended(self, folder: Path, seconds: float, loss: float | None) -> "Plan":
        """Return the plan in which the trial of a folder has come to its end; without a loss it failed."""
        after = {"seconds": None if loss is None else seconds, "loss": loss, "failed": loss is None}
        trials = tuple(trial.model_copy(update=after) if trial.folder == folder else trial for trial in self.trials)
        return self.model_copy(update={"trials": trials})


@dataclass
class _Writer:
    """Writes the state of a trial as its stages are told."""

    folder: Path
    started_at: float
    seconds: dict[str, float]
    began: dict[str, float]
    skipped: dict[str, int]
    numbers: dict[str, float]
    written_at: float = 0.0

    def __call__(self, stage: Stage) -> None:
        now = time.time()
        is_new = stage.name not in self.began
        self.began.setdefault(stage.name, now)
        self.skipped.setdefault(stage.name, stage.done)
        self.numbers |= stage.numbers
        if not (is_new or stage.ended) and now - self.written_at < WRITE_EVERY_SECONDS:
            return
        self.written_at = now
        self.seconds[stage.name] = now - self.began[stage.name]
        state = TrialState(
            stage=stage.name,
            done=stage.done,
            total=stage.total,
            skipped=self.skipped[stage.name],
            seconds=self.seconds,
            numbers=self.numbers,
            started_at=self.started_at,
            written_at=now,
        )
        # Whoever looks on must not end a training: where the disk is full, the training itself will say so.
        with contextlib.suppress(OSError):
            write_atomically(self.folder / PROGRESS_FILE, state.model_dump_json())


@contextlib.contextmanager
def written_progress(folder: Path) -> Iterator[None]:
    """Write the stages of the work inside into the folder of a trial, and delete the file at the end."""
    try:
        with told_to(_Writer(folder, time.time(), {}, {}, {}, {})):
            yield
    finally:
        (folder / PROGRESS_FILE).unlink(missing_ok=True)


def read_plan(folder: Path, since: float = 0.0) -> Plan | None:
    """Read the plan of a comparison; None where none is running.

    Parameters
    ----------
    folder
        Of the comparison.
    since
        Seconds since 1970: an older one was killed, and left its files.
    """
    try:
        plan = Plan.model_validate_json((folder / PROGRESS_FILE).read_bytes())
    except (OSError, ValidationError):  # there is none, or another version's
        return None
    return plan if plan.started_at >= since else None


def read_state(folder: Path) -> TrialState | None:
    """Read what a trial is doing; None where it is doing nothing."""
    try:
        return TrialState.model_validate_json((folder / PROGRESS_FILE).read_bytes())
    except (OSError, ValidationError):
        return None

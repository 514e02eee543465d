"""A small run in a process of its own: what is on its disk at every file-system event, and how it goes on from there.

The run is a cascade (its embedding is lent by a ``pythia``, two context blocks are trained by OACD, then what reads
them). At each event that would write, rename, create or delete something below the outputs, the whole folder is copied
first: what a kill at that event would leave. Copies are content alone, so that two events with the same content count
once, and a file that has just been written also stands half-written in a copy of its own.
"""

import contextlib
import errno
import gc
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pandas as pd
import torch

from newllm.config.notebooks import MainTraining
from newllm.data import TextData, prepare_data
from newllm.experiments import scoring
from newllm.experiments.running import run_trial
from newllm.experiments.trial import lender_of
from newllm.files import PARTIAL
from newllm.runs import lock
from newllm.runs.folder import Run
from newllm.runs.provenance import Provenance
from tests.comparison_setup import settings, trial_of, write_texts

ARM = "cascade"

# What is open for writing counts as an event, and so does what changes names.
EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


def small(text_folder: Path) -> MainTraining:
    """Settings of a run of about a second."""
    return settings(
        text_folder,
        arms=[ARM],
        samples=16,
        val_samples=2,
        test_samples=2,
        projection_samples=8,
        max_iterations=12,
        stream_max_iterations=12,
        convergence_target=1.0,
        stream_tokens=64,
    )


class Place:
    """Where the run lies, and its text."""

    def __init__(self, folder: Path) -> None:
        self.texts, self.outputs = folder / "texts", folder / "outputs"
        self.snapshots = folder / "snapshots"
        os.environ["NEWLLM_CACHE"] = str(folder / "cache")
        os.environ["NEWLLM_OUTPUTS"] = str(self.outputs)
        self.texts.mkdir(parents=True)
        write_texts(self.texts)
        self.parameters = small(self.texts)
        self.data: TextData = prepare_data(self.parameters)

    def notebook_run(self, outputs: Path) -> Run:
        """The run of the notebook, in which the trials lie."""
        return Run(outputs / "run", self.parameters.identity())

    def run(self, outputs: Path) -> dict[str, Any]:
        """Run lender and borrower to their ends, or read them where they are finished; return what must be equal."""
        notebook = self.notebook_run(outputs)
        borrower = trial_of(ARM, self.parameters, notebook.folder, self.data.fingerprint)
        lender = lender_of(borrower)
        assert lender is not None
        with cheap_scores(), notebook.work():
            if not notebook.is_finished:
                notebook.start()
                for trial in (lender, borrower):
                    run_trial(trial, self.data)
                notebook.save_table(pd.DataFrame({"arm": [ARM]}), "arms")
                notebook.finish(1.0)
        return numbers(notebook.folder)


def numbers(run: Path) -> dict[str, Any]:
    """What a run has found out: records without times, window losses, histories, weights, and its table."""
    found: dict[str, Any] = {"table": (run / "tables" / "arms.csv").read_text()}
    for folder in sorted(run.glob("*-seed*")):
        record = json.loads((folder / "record.json").read_text())
        metrics = {name: value for name, value in record["metrics"].items() if "per_second" not in name}
        evaluation = json.loads((folder / "evaluation.json").read_text())
        history = json.loads((folder / "history.json").read_text())
        for row in history["main"]:
            del row["seconds"], row["tokens_per_second"]
        weights = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
        config = json.loads((folder / "model" / "config.json").read_text())
        found[folder.name] = [metrics, record["parameters"], evaluation["window_losses"], history, weights, config]
    return found


@contextlib.contextmanager
def cheap_scores() -> Iterator[None]:
    """Leave out what takes long and decides no file: certificate, bytes, speed, continuations and provenance."""
    passed = SimpleNamespace(passed=True, max_change=0.0, failures=list, as_dict=dict)
    size = {"tokens": 1, "dtype": "float32", "measured_bytes": 1, "formula_bytes": 1, "bytes_per_token": 1.0}
    speed = pd.DataFrame({"tokens_per_second": [1.0]})
    here = Provenance(
        commit=None, has_uncommitted_changes=None, versions={}, machine={}, finished_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    with (
        mock.patch.object(scoring, "certify", lambda model: passed),
        mock.patch.object(scoring, "_cache_fields", lambda *_: size),
        mock.patch.object(scoring, "compare_decoding", lambda *_, **named: speed),
        mock.patch.object(scoring, "continue_prompts", lambda *_: ()),
        mock.patch.object(Provenance, "collect", lambda: here),
        mock.patch.object(lock, "POLL_SECONDS", 0.01),
    ):
        yield


class Recorder:
    """An audit hook that copies the outputs at every event, or makes one of them fail as a full disk would."""

    def __init__(self, outputs: Path, snapshots: Path, fails_at: int = 0) -> None:
        self.outputs, self.snapshots, self.fails_at = outputs, snapshots, fails_at
        self.events = 0
        self.before = self._files()
        self.seen: set[str] = set()
        self.busy = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.busy or not self._concerns(event, arguments):
            return
        self.busy = True
        try:
            self.events += 1
            if not self.fails_at:
                self.copy()
            elif event in ("open", "os.mkdir") and self.events >= self.fails_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
        finally:
            self.busy = False

    def _concerns(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event != "open":
            return event in EVENTS and str(arguments[0]).startswith(str(self.outputs))
        path, _, flags = arguments
        return str(path).startswith(str(self.outputs)) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    def _files(self) -> dict[str, bytes]:
        paths = (path for path in sorted(self.outputs.rglob("*")) if path.is_file())
        return {str(path.relative_to(self.outputs)): path.read_bytes() for path in paths}

    def copy(self) -> None:
        """Keep what lies on the disk now, and variants in which what is new is half-written."""
        now = self._files()
        folders = [str(path.relative_to(self.outputs)) for path in self.outputs.rglob("*") if path.is_dir()]
        self._keep(now, folders)
        known = set(self.before.values())
        for name, content in now.items():
            # What is renamed is whole.
            if len(content) > 1 and content not in known and not name.endswith(lock.LOCK_FILE):
                self._keep({**now, name: content[: len(content) // 2]}, folders)
        self.before = now

    def _keep(self, files: dict[str, bytes], folders: list[str]) -> None:
        # The owner of a lock differs from run to run.
        described = [
            (name, b"" if name.endswith(lock.LOCK_FILE) else hashlib.sha256(content).digest())
            for name, content in files.items()
        ]
        key = hashlib.sha256(repr((sorted(described), sorted(folders))).encode()).hexdigest()
        if key in self.seen:
            return
        self.seen.add(key)
        place = self.snapshots / f"{len(self.seen):04d}"
        place.mkdir(parents=True)
        for name in sorted(folders):
            (place / name).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_bytes(content)


def in_a_child(work: Callable[[], Any]) -> Any:
    """Do something in a forked process, and return what it returns; an error comes back as its text."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if not child:
        try:
            sender.send(work())
        except BaseException as error:
            sender.send(f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        answer = "the process died"
    os.waitpid(child, 0)
    return answer


def record_events(place: Place, work: Callable[[], Any]) -> dict[str, Any]:
    """Do something once, keeping what lies on the disk at every event."""
    recorder = Recorder(place.outputs, place.snapshots)

    def recorded() -> dict[str, Any]:
        sys.addaudithook(recorder)
        result = work()
        recorder.busy = True
        return {"result": result, "events": recorder.events, "snapshots": len(recorder.seen)}

    answer = in_a_child(recorded)
    assert isinstance(answer, dict), answer
    return answer


def restart(place: Place, outputs: Path, expected: Any) -> list[str]:
    """Go on from what lies on the disk; say in which way that did not end as an uninterrupted run."""
    answer = in_a_child(lambda: place.run(outputs))
    if answer != expected:
        return [f"{outputs.name}: {answer if isinstance(answer, str) else 'other numbers'}"]
    return [f"{outputs.name}: {path} is left" for path in outputs.rglob(f"{PARTIAL}*")]


def killed_runs(folder: Path, stride: int) -> dict[str, Any]:
    """End the small run at every stride-th state of the disk, and go on from there."""
    place = Place(folder)
    place.outputs.mkdir()
    whole = record_events(place, lambda: place.run(place.outputs))
    return {"events": whole["events"], **restart_all(place, whole["result"], stride)}


def killed_deletions(folder: Path, stride: int) -> dict[str, Any]:
    """End the deletion of a finished run, as ``--rerun`` does it, at every stride-th state, and go on from there."""
    place = Place(folder)
    place.outputs.mkdir()
    result = in_a_child(lambda: place.run(place.outputs))
    cleared = record_events(place, lambda: place.notebook_run(place.outputs).clear())
    return {"events": cleared["events"], **restart_all(place, result, stride)}


def restart_all(place: Place, expected: Any, stride: int) -> dict[str, Any]:
    """Go on from every stride-th state that was kept, and count."""
    kept = sorted(place.snapshots.iterdir())[::stride]
    return {"restarts": len(kept), "failed": [fault for each in kept for fault in restart(place, each, expected)]}


def full_disk(folder: Path, stride: int) -> dict[str, Any]:
    """Let the disk be full from every stride-th event on, and go on when there is room again."""
    place = Place(folder)
    place.outputs.mkdir()
    whole = record_events(place, lambda: place.run(place.outputs))
    shutil.rmtree(place.snapshots)
    failed = []
    refused = 0
    for event in range(1, whole["events"] + 1, stride):
        outputs = folder / f"full-{event}"
        outputs.mkdir()

        def fill(outputs: Path = outputs, event: int = event) -> Any:
            sys.addaudithook(Recorder(outputs, place.snapshots, fails_at=event))
            return place.run(outputs)

        refused += isinstance(in_a_child(fill), str)
        failed += restart(place, outputs, whole["result"])
        shutil.rmtree(outputs)
    return {"events": whole["events"], "refused": refused, "failed": failed}


FAULTS: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "flipped bit": lambda content, chance: _flipped(content, chance),
    "cut": lambda content, _: content[: len(content) // 2],
    "deleted": lambda *_: None,
}


def _flipped(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]


def every_fault(folder: Path, stride: int) -> dict[str, Any]:
    """Damage files of the finished run and of a half-finished one, and run again: every stride-th file and fault.

    The half-finished one was killed in main training, with two checkpoints. A fault did not matter, was named and made
    good, was refused, or passed silently: then numbers are others than those of the undamaged run.
    """
    place = Place(folder)
    place.outputs.mkdir()
    whole = record_events(place, lambda: place.run(place.outputs))
    finished = place.outputs
    half = max(
        (snapshot for snapshot in place.snapshots.iterdir()),
        key=lambda snapshot: (len(list(snapshot.glob(f"run/{ARM}*/training/*/manifest.json"))), snapshot.name),
    )
    counts: dict[str, dict[str, int]] = {}
    silent = []
    chance = random.Random(0)
    for state, source in (("finished", finished), ("half-finished", half)):
        seen = counts.setdefault(state, dict.fromkeys(("did not matter", "made good", "refused", "silent"), 0))
        # What the lender left is finished in both states.
        inside = "*" if state == "finished" else f"*{ARM}*/**/*"
        files = [path.relative_to(source) for path in sorted(source.rglob(inside)) if path.is_file()]
        files = [name for name in files if not name.name.startswith(".")]
        for name, fault in list(itertools.product(files, FAULTS))[::stride]:
            copy = folder / "copy"
            shutil.copytree(source, copy)
            content = FAULTS[fault]((copy / name).read_bytes(), chance)
            (copy / name).unlink()
            if content is not None:
                (copy / name).write_bytes(content)
            outcome = in_a_child(lambda copy=copy: with_warnings(place, copy))  # type: ignore[misc]
            verdict = _verdict(outcome, whole["result"])
            seen[verdict] += 1
            if verdict == "silent" or (verdict == "refused" and "Error: " not in outcome):
                silent.append(f"{state}, {name}, {fault}: {outcome if isinstance(outcome, str) else ''}")
            shutil.rmtree(copy)
    return {"counts": counts, "silent": silent}


class Counter(logging.Handler):
    """Counts the messages it is given."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        self.count += 1


def with_warnings(place: Place, outputs: Path) -> tuple[dict[str, Any], int]:
    """Run, and count the warnings."""
    counter = Counter(logging.WARNING)
    logging.getLogger("newllm").addHandler(counter)
    return place.run(outputs), counter.count


def _verdict(outcome: Any, expected: Any) -> str:
    if isinstance(outcome, str):
        return "refused"
    found, warnings = outcome
    if found != expected:
        return "silent"
    return "made good" if warnings else "did not matter"


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    gc.freeze()  # What was imported need not be looked through in every child.
    sys.stdout.write(json.dumps(globals()[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))))

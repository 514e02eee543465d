"""Trials on Dask's workers: the same records as in one process, also where a worker is lost on the way."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import dask
import pytest

from newllm import cli
from newllm.config.errors import ParameterError
from newllm.config.workers import LOCAL
from newllm.data import prepare_data
from newllm.experiments.comparison import run_trials
from newllm.experiments.jobs import PARAMETERS_FILE, Job, run_as_jobs, run_job
from newllm.experiments.running import run_trial
from newllm.experiments.workers import open_workers, slurm_job_script
from newllm.files import write_atomically
from newllm.runs.lock import LOCK_FILE, RunError
from newllm.runs.record import Record
from newllm.runtime import commit
from tests.comparison_setup import settings, trial_of


def wait_until(condition: Callable[[], object], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def result(record: Record) -> dict[str, object]:
    """What a record says of the model, and not of the machine."""
    kept = {name: value for name, value in record.metrics.items() if not re.search("second|memory", name)}
    assert record.peak_memory is not None
    others = {"parameters": record.parameters, "continuations": record.continuations, "bytes": record.cache}
    return {**{name: pytest.approx(value, rel=1e-4) for name, value in kept.items()}, **others}


def test_a_worker_is_lost_in_the_middle_and_the_records_are_those_of_one_process(
    text_folder, text_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    parameters = settings(text_folder, epochs=8, patience=8, lr=1e-4)
    group = tmp_path / "many" / "group"
    trials = [trial_of(arm, parameters, group, text_data.fingerprint) for arm in ("pythia", "narrow")]
    folder = trials[0].run().folder
    killed = []

    def kill_a_worker() -> None:
        wait_until(lambda: len(list(folder.glob("training/checkpoint-*/manifest.json"))) >= 2)
        killed.append(int(re.findall(r"^pid=(\d+)", (folder / LOCK_FILE).read_text(), re.MULTILINE)[0]))
        os.kill(killed[0], signal.SIGKILL)

    with open_workers(LOCAL, 2) as workers:
        assert workers.count == 2
        killer = threading.Thread(target=kill_a_worker)
        killer.start()
        run_part = partial(run_as_jobs, executor=workers.executor)
        failures = run_trials(trials, text_data, tmp_path / "many", 2, run_part=run_part)
        killer.join()
    assert failures == {}
    assert killed != [os.getpid()]
    for trial in trials:
        alone = run_trial(replace(trial, folder=tmp_path / "one"), text_data)
        assert result(trial.run().record()) == result(alone)


def test_other_code_and_other_text_are_refused_before_anything_is_trained(
    text_folder, text_data, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    trial = trial_of("pythia", settings(text_folder), tmp_path / "trials", text_data.fingerprint)
    write_atomically(trial.folder / PARAMETERS_FILE, trial.parameters.to_yaml())
    with pytest.raises(RunError, match="the sweep at 123abc: bring both to one commit"):
        run_job(Job.of(trial, "123abc"))
    with pytest.raises(RunError, match="reads other text than the sweep"):
        run_job(replace(Job.of(trial, commit()), data="0" * 32))
    assert [path.name for path in trial.folder.iterdir()] == [PARAMETERS_FILE]
    # Its few documents are warned of once, by whoever hands the jobs out, and not again for each job.
    assert "documents" not in caplog.text
    prepare_data(trial.parameters)
    assert "an interval over documents says little" in caplog.text


@pytest.fixture
def dask_program() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start one of Dask's programs by hand, and wait for the address that it says it has."""
    started = []

    def start(program: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments, "--no-dashboard"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stderr is not None
        said = next(line for line in process.stderr if re.search(r"Scheduler at:|Registered to:", line))
        return process, re.findall(r"tcp://\S+", said)[0]

    yield start
    for process in reversed(started):
        process.kill()
        process.communicate()


def test_a_scheduler_that_runs_is_used_with_the_workers_that_it_has(dask_program):
    _, address = dask_program("scheduler", "--host", "localhost", "--port", "0")
    worker, _ = dask_program("worker", address, "--no-nanny", "--nthreads", "1")
    with open_workers(address, 1) as workers:
        assert workers.count == 1
        assert workers.executor.submit(os.getpid).result(60) == worker.pid
    dask_program("worker", address, "--no-nanny", "--nthreads", "2")
    with pytest.raises(ParameterError, match="runs several trials at a time: start workers with --nthreads 1"):
        open_workers(address, 1).__enter__()


def test_where_no_scheduler_answers_it_is_said_how_to_start_one(monkeypatch):
    monkeypatch.setattr("newllm.experiments.workers.ANSWER_SECONDS", 0.5)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}),
        pytest.raises(ParameterError, match="no Dask scheduler answers at tcp://localhost"),
        open_workers("tcp://localhost:1", 1),
    ):
        pytest.fail("nobody is there")


def test_a_scheduler_that_does_not_answer_is_named_before_any_text_is_read(capsys, monkeypatch):
    monkeypatch.setattr("newllm.experiments.workers.ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("newllm.experiments.sweep_run.prepare_data", None)
    with dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}):
        assert cli.main(["sweep", "smoke", "--on", "tcp://localhost:1"]) == 2
    assert "no Dask scheduler answers at tcp://localhost:1" in capsys.readouterr().out


def test_a_job_of_slurm_runs_one_trial_at_a_time_on_all_its_cores():
    configured = {"cores": 6, "memory": "20GB", "queue": "long", "account": "language", "walltime": "10:00:00"}
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in configured.items()}):
        script = slurm_job_script()
    assert "--nthreads 1 " in script
    assert script.rstrip().endswith("--memory-limit 0")
    assert "distributed.cli.dask_worker tcp://" in script
    for line in ("-p long", "-A language", "-n 1", "--cpus-per-task=6", "--mem=19G", "-t 10:00:00"):
        assert f"#SBATCH {line}\n" in script
    assert script.index("export OMP_NUM_THREADS=6") < script.index("dask_worker")
    with pytest.raises(ParameterError, match="SLURM's jobs need cores and memory"):
        slurm_job_script()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--on", "slrum"],
            "--on is 'slrum', but it must be local or slurm, or the address .* (did you mean 'slurm'?).",
        ),
        (["--dry-run", "-p", "precision=tf32", "-p", "device=cpu"], "precision is tf32, which cpu has not"),
        (["--on", "tcp://10.0.0.7:8786", "--processes", "2"], "it has the workers that it has"),
    ],
)
def test_places_that_there_are_not_are_refused(arguments, message, capsys):
    assert cli.main(["sweep", "smoke", *arguments]) == 2
    shown = capsys.readouterr().out
    assert all(part in shown for part in message.split(" .* "))

"""Ctrl-C, by real signals to real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import psutil
import pytest

# Much more than the grace, and much less than the commands would take.
PATIENCE_SECONDS = 30

STUBBORN = """
import sys, time
from newllm import cli
from newllm.commands import compare_parameters

def work(options):
    print("at work", flush=True)
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass

compare_parameters.main = work
sys.exit(cli.main(["compare-parameters", ".", "."]))
"""

NOTEBOOK = """
import sys
from pathlib import Path
from newllm import cli
from newllm.commands import shared

shared.notebooks_folder = lambda: Path.cwd()
sys.exit(cli.main(["run", "01"]))
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], Path]]]:
    """Start programs as a shell starts what stands before ``&``: with Ctrl-C ignored, in a process group of its own."""
    processes = []

    def start(program: str) -> tuple[subprocess.Popen[str], Path]:
        shown = tmp_path / "shown.txt"
        with shown.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=tmp_path,
                env=os.environ | {"NEWLLM_OUTPUTS": str(tmp_path / "outputs")},
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
            )
        processes.append(process)
        return process, shown

    yield start
    for process in processes:
        process.kill()


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def test_a_run_ends_in_one_line_and_its_kernel_with_it(started, tmp_path: Path) -> None:
    waiting = "import os, time\nfrom pathlib import Path\nPath('kernel').write_text(str(os.getpid()))\ntime.sleep(600)"
    parameters = nbformat.v4.new_code_cell('profile = "smoke"', metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell(waiting.replace("'kernel'", repr(str(tmp_path / "kernel"))))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "01_projection_training.ipynb")
    process, shown = started(NOTEBOOK)
    kernel = tmp_path / "kernel"
    wait_until(lambda: kernel.is_file() and bool(kernel.read_text()), 240)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 130
    lines = [line for line in shown.read_text().splitlines() if line]
    assert lines[1:] == ["Interrupted: what was finished is kept; the same command goes on from the last checkpoint."]
    wait_until(lambda: not psutil.pid_exists(int(kernel.read_text())), PATIENCE_SECONDS)


@pytest.mark.parametrize("presses", [1, 2])
def test_work_that_keeps_the_exception_to_itself_ends_too(started, presses: int) -> None:
    process, shown = started(STUBBORN)
    wait_until(lambda: "at work" in shown.read_text(), 240)
    for _ in range(presses):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
    assert process.wait(PATIENCE_SECONDS) == 130
    assert [line[:12] for line in shown.read_text().splitlines()[1:] if line] == ["Interrupted:"]

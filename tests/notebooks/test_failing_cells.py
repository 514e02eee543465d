"""Cells that fail: `make test` must see each of them, and a dead kernel must not take other notebooks with it."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import nbformat

from newllm import cli
from newllm.commands import refresh, run
from newllm.files import project_root

NOTEBOOKS = project_root() / "notebooks"
KILLED = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


def write(path: Path, *sources: str) -> Path:
    """A notebook of cells that were executed and printed nothing."""
    cells = [nbformat.v4.new_code_cell(source, execution_count=count) for count, source in enumerate(sources, start=1)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_nbval_fails_each_cell_that_fails_whatever_it_leaves_behind(tmp_path):
    """A magic that fails leaves no error among the outputs, nor does a cell that ends the kernel."""
    (tmp_path / "conftest.py").write_text((NOTEBOOKS / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    failing = {
        "magic": "%no_such_magic\nraise ValueError('never seen')",
        "usage": "%autosave nonsense",
        "shell": "%%bash\nexit 3",
        "error": "1 / 0",
        "killed": KILLED,
    }
    passing = {"good": "%pwd", "expected": "# NBVAL_RAISES_EXCEPTION\n%no_such_magic"}
    for name, source in (failing | passing).items():
        write(tmp_path / f"{name}.ipynb", "first = 1", source, "last = 2")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    done = subprocess.run([*command, "-rf", str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout
    failed = {tuple(found) for found in re.findall(r"^FAILED (\w+)\.ipynb::Cell (\d)", done.stdout, re.MULTILINE)}
    # A killed kernel answers for no later cell either.
    assert failed == {(name, "1") for name in failing} | {("killed", "2")}, done.stdout


def test_a_killed_kernel_ends_one_notebook_with_one_sentence_and_the_next_one_runs(tmp_path, monkeypatch, caplog):
    parameters = nbformat.v4.new_code_cell("profile = None", metadata={"tags": ["parameters"]})
    for name, source in (("14_leaderboard", KILLED), ("03_causal_masks", "print('runs')")):
        cells = [parameters, nbformat.v4.new_code_cell(source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(run, "notebook_path", lambda name: tmp_path / f"{name}.ipynb")
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr(cli, "_log_to_the_terminal", lambda: None)
    with caplog.at_level(logging.INFO, "newllm"):
        assert cli.main(["run", "14", "03"]) == 1
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    said = [record.getMessage() for record in errors if record.name.startswith("newllm")]
    assert said[0].startswith("14_leaderboard failed: its kernel died")
    assert said[1].startswith("Failed: 14_leaderboard.")
    assert len(said) == 2
    assert not [record for record in caplog.records if record.exc_info]
    assert list((tmp_path / "outputs").glob("03_causal_masks/*/03_causal_masks.ipynb")), "the second one did not run"


def test_refresh_leaves_a_notebook_that_fails_and_goes_on_to_the_next(tmp_path, monkeypatch, caplog):
    sources = {"00_overview": KILLED, "01_projection_training": "%no_such_magic", "03_causal_masks": "print('runs')"}
    before = {}
    for name, source in sources.items():
        before[name] = write(tmp_path / f"{name}.ipynb", source).read_bytes()
    monkeypatch.setattr(refresh, "notebook_path", lambda name: tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(cli, "_log_to_the_terminal", lambda: None)
    with caplog.at_level(logging.INFO, "newllm"):
        assert cli.main(["refresh", "00", "01", "03"]) == 1
    errors = [record.getMessage() for record in caplog.records if record.name.startswith("newllm")]
    assert errors[0].startswith("00_overview is left as it was: its kernel died")
    assert errors[1].startswith("01_projection_training is left as it was: UsageError")
    assert errors[2].startswith("03_causal_masks is refreshed")
    after = {name: (tmp_path / f"{name}.ipynb").read_bytes() for name in sources}
    assert [name for name in sources if after[name] != before[name]] == ["03_causal_masks"]

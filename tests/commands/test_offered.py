"""Commands that are offered work as they are printed, where they are printed."""

import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from newllm.commands import start_run
from newllm.commands.offered import as_called_here
from newllm.publication.start_page import Result, Spoken


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the programs of an environment in a folder of the working directory that no shell searches."""
    programs = tmp_path / "my project" / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "newllm").write_text('#!/bin/sh\necho "$1"\n')
    (programs / "newllm").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.chdir(tmp_path)
    return programs


def test_a_program_that_the_shell_does_not_find_is_offered_by_its_path(environment: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(environment.parents[1])
    command = as_called_here("newllm start")
    assert command == ".venv/bin/newllm start"
    assert subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout == "start\n"
    # From elsewhere, and from where a bare name would stand, by the whole path, in quotes where it has a space.
    for place in (environment.parent / "elsewhere", environment):
        place.mkdir(exist_ok=True)
        monkeypatch.chdir(place)
        assert shlex.split(as_called_here("newllm start")) == [str(environment / "newllm"), "start"]


def test_a_program_that_the_shell_finds_is_offered_by_its_name(environment: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", f"{environment}:/usr/bin:/bin")
    assert as_called_here("newllm run 02") == "newllm run 02"


def test_another_environments_program_is_not_ours(environment: Path, tmp_path: Path, monkeypatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "newllm").write_text("#!/bin/sh\n")
    (other / "newllm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}:/usr/bin:/bin")
    assert as_called_here("newllm start") == "'my project/.venv/bin/newllm' start"


def test_without_an_installation_python_runs_the_package(environment: Path, monkeypatch) -> None:
    (environment / "newllm").unlink()
    assert as_called_here("newllm start") == "'my project/.venv/bin/python' -m newllm start"


def test_the_model_that_is_talked_to_is_the_one_that_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    spoken = Spoken("The", (" end",), (1,))
    results = [Result(arm, "", 1.0, 1.0, 1.0, "", said) for arm, said in (("mqa", None), ("mla", spoken), ("ka", None))]
    records = pd.DataFrame({"arm": arm, "folder": tmp_path / f"{arm}-seed0"} for arm in ("ka", "mla", "mqa", "pythia"))
    commands = start_run._next_commands(results, records)
    (named,) = (what for what in commands if "go on" in what)
    assert "mla" in named and "'mla-seed0/model'" in commands[named]
    assert len(start_run._next_commands(results[:1], records)) == len(commands) - 1

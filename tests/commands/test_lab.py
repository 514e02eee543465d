"""``newllm lab``: copies of the notebooks, which are run and changed while the clone stays as it is."""

import os
import subprocess

import pytest

from newllm import cli
from newllm.commands import lab
from newllm.commands.shared import available_notebooks, notebook_path


def test_what_somebody_changed_is_kept(tmp_path):
    folder = lab.copy_notebooks(tmp_path / "copies")
    changed = folder / notebook_path(available_notebooks()[0]).name
    changed.write_text("mine")
    (folder / notebook_path(available_notebooks()[1]).name).unlink()
    lab.copy_notebooks(folder)
    assert changed.read_text() == "mine"
    others = [path for path in folder.iterdir() if path != changed]
    assert len(others) == len(available_notebooks()) - 1
    assert all(path.read_bytes() == notebook_path(path.stem).read_bytes() for path in others)


@pytest.fixture
def seen(monkeypatch) -> dict:
    """What JupyterLab is started with."""
    seen: dict = {}

    def note(command: list[str], **settings: object) -> object:
        seen.update(settings, command=command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", note)
    return seen


@pytest.mark.parametrize(("user", "said"), [(1000, []), (0, ["--allow-root"])])
def test_lab_is_opened_with_what_it_takes_itself(tmp_path, monkeypatch, seen, user, said):
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path))
    assert cli.main(["lab", "--port", "8899", "--no-browser"]) == 3
    _, *module, _, _, _, port, browser = seen["command"][:9]
    assert module == ["-m", "jupyter", "lab"] and (port, browser) == ("--port=8899", "--no-browser")
    assert seen["command"][9:] == said


def test_the_address_leads_to_the_copies_and_the_workspace_is_of_these_outputs(tmp_path, monkeypatch, seen):
    first = f"{available_notebooks()[0]}.ipynb"
    monkeypatch.setattr(lab, "project_root", lambda: tmp_path)
    for outputs, root, place in (
        (tmp_path / "outputs", tmp_path, f"outputs/notebooks/{first}"),
        (tmp_path.parent / "else where", tmp_path.parent / "else where", f"notebooks/{first}"),
    ):
        monkeypatch.setenv("NEWLLM_OUTPUTS", str(outputs))
        cli.main(["lab"])
        assert seen["cwd"] == root and (root / place).is_file()
        assert f"--ServerApp.root_dir={root}" in seen["command"]
        assert f"--LabApp.default_url=/lab/tree/{place}" in seen["command"]
        assert f"--LabApp.workspaces_dir={outputs / '.jupyterlab'}" in seen["command"]


def test_the_settings_are_those_of_jupyterlab(seen):
    labapp = pytest.importorskip("jupyterlab.labapp")
    assert {"default_url", "workspaces_dir"} <= set(labapp.LabApp.class_trait_names(config=True))


@pytest.fixture(autouse=True)
def no_real_lab(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("JupyterLab was started"))

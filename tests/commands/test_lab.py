"""``newllm lab``: copies of the notebooks, which are run and changed while the clone stays as it is."""

import os
import subprocess

import pytest

from newllm import cli
from newllm.commands import lab
from newllm.commands.shared import available_notebooks, notebook_path
from newllm.files import project_root


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


@pytest.mark.parametrize(("user", "said"), [(1000, []), (0, ["--allow-root"])])
def test_lab_is_opened_at_the_root_with_what_it_takes_itself(tmp_path, monkeypatch, user, said):
    seen = {}
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)

    def note(command: list[str], **settings: object) -> object:
        seen.update(settings, command=command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", note)
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path))
    assert cli.main(["lab", "--port", "8899", "--no-browser"]) == 3
    assert seen["cwd"] == project_root()
    _, *module, shown, served, port, browser = seen["command"][:8]
    assert served == f"--ServerApp.root_dir={project_root()}"
    assert module == ["-m", "jupyter", "lab"] and (port, browser) == ("--port=8899", "--no-browser")
    assert seen["command"][8:] == said
    assert (project_root() / shown).is_file()


@pytest.fixture(autouse=True)
def no_real_lab(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("JupyterLab was started"))

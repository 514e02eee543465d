"""``newllm lab``: the notebooks in JupyterLab, as copies that may be run and changed."""

import argparse
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from newllm.commands.shared import available_notebooks, notebook_path
from newllm.files import outputs_folder, project_root

logger = logging.getLogger(__name__)

# Below the outputs.
COPIES = "notebooks"
WORKSPACES = ".jupyterlab"


def main(options: argparse.Namespace) -> int:
    """Do ``newllm lab``: copy the notebooks that are not there yet, and open the first of the copies."""
    outputs = outputs_folder().resolve()
    copies = copy_notebooks(outputs / COPIES)
    logger.info("The notebooks are copies, in %s; delete one to get it anew.", copies)
    # From the project's root its outputs and documents are in reach; outputs that lie elsewhere are not below it.
    root = project_root() if outputs.is_relative_to(project_root()) else outputs
    shown = (copies / f"{available_notebooks()[0]}.ipynb").relative_to(root)
    command = [sys.executable, "-m", "jupyter", "lab", f"--ServerApp.root_dir={root}"]
    # The address that is printed leads to the copies, too, and what another clone had open is not opened again.
    command += [f"--LabApp.default_url=/lab/tree/{quote(shown.as_posix())}"]
    command += [f"--LabApp.workspaces_dir={outputs / WORKSPACES}"]
    command += [f"--port={options.port}"] if options.port else []
    command += [] if options.browser else ["--no-browser"]
    # Whoever is root, as in most containers, has no other user to be; Jupyter asks to be told.
    command += ["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    return subprocess.run(command, cwd=root, check=False).returncode


def copy_notebooks(folder: Path) -> Path:
    """Copy each notebook that a folder has not into it, and return the folder.

    Parameters
    ----------
    folder
        Where to; what is there already is left as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in available_notebooks():
        copy = folder / notebook_path(name).name
        if not copy.exists():
            shutil.copyfile(notebook_path(name), copy)
    return folder

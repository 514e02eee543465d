"""The kernel ``python3``, whichever environment the notebook runs in."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from newllm.files import project_root


@contextmanager
def kernel_of_this_python() -> Iterator[None]:
    """Make the kernel ``python3`` this interpreter with this library, whatever is installed under that name."""
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernels" / "python3"
        kernel.mkdir(parents=True)
        # Only errors: the kernel otherwise warns of the unencrypted connection, which does not leave this machine.
        command = [sys.executable, "-m", "ipykernel_launcher", "--log-level=ERROR", "-f", "{connection_file}"]
        library = os.pathsep.join(filter(None, [str(project_root() / "lib"), os.environ.get("PYTHONPATH")]))
        description = {
            "argv": command,
            "display_name": "Python 3",
            "language": "python",
            "env": {"PYTHONPATH": library},
        }
        (kernel / "kernel.json").write_text(json.dumps(description), encoding="utf-8")
        # Jupyter looks into JUPYTER_PATH before the user's and the system's kernels.
        os.environ["JUPYTER_PATH"] = os.pathsep.join([folder, before] if before else [folder])
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before

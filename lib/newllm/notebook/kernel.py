"""The kernel ``python3``, whichever environment the notebook runs in, and what is said where it dies."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nbclient.exceptions import DeadKernelError

from newllm.files import project_root
from newllm.progress import LINES, PROGRESS_VARIABLE
from newllm.runtime import environment

# What jupyter_client says, as a plain RuntimeError, of a kernel that does not live to its first answer.
DIED_AT_ITS_START = "Kernel died"


class KernelDiedError(RuntimeError):
    """The kernel ended before the notebook did; the message is one sentence."""


@contextmanager
def kernel_of_this_python() -> Iterator[None]:
    """Make the kernel ``python3`` this interpreter with this library, whatever is installed under that name.

    Raises
    ------
    KernelDiedError
        Where the kernel of a notebook that is executed inside ends before the notebook does.
    """
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernels" / "python3"
        kernel.mkdir(parents=True)
        # The kernel otherwise warns of its unencrypted connection, which does not leave this machine, and of the
        # interrupt that ends it.
        command = [sys.executable, "-m", "ipykernel_launcher", "--log-level=CRITICAL", "-f", "{connection_file}"]
        description = {
            "argv": command,
            "display_name": "Python 3",
            "language": "python",
            # Whoever executes a notebook shows how far it is.
            "env": {"PYTHONPATH": _before("PYTHONPATH", project_root() / "lib"), PROGRESS_VARIABLE: LINES},
        }
        (kernel / "kernel.json").write_text(json.dumps(description), encoding="utf-8")
        # Jupyter looks into JUPYTER_PATH before the user's and the system's kernels.
        with environment(JUPYTER_PATH=_before("JUPYTER_PATH", Path(folder))):
            try:
                yield
            except RuntimeError as error:
                if not (isinstance(error, DeadKernelError) or str(error).startswith(DIED_AT_ITS_START)):
                    raise
                raise KernelDiedError(
                    "its kernel died: it was killed, or the machine ran out of memory (smaller batch_size and "
                    "processes need less)."
                ) from None


def _before(variable: str, folder: Path) -> str:
    """Return the search path of an environment variable with a folder before all others."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))

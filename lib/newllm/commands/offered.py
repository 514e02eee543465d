"""Commands that are offered to whoever reads: as they work where he stands, whether an environment is active or not."""

import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "newllm"


def as_called_here(command: str) -> str:
    """Return a command of newllm as it is typed in the working directory.

    Parameters
    ----------
    command
        It begins with ``newllm``. Where the shell finds no such program, or that of another environment, the path of
        this environment's stands there instead.
    """
    ours = shutil.which(PROGRAM, path=str(Path(sys.executable).parent))
    found = shutil.which(PROGRAM)
    if ours is None:  # it was not installed, and runs from its source
        program = f"{shlex.quote(shown_from_here(Path(sys.executable)))} -m newllm"
    elif found is not None and Path(found).samefile(ours):
        program = PROGRAM
    else:
        program = shlex.quote(shown_from_here(Path(ours)))
    return program + command.removeprefix(PROGRAM)


def shown_from_here(path: Path) -> str:
    """Return a path relative to the working directory where it lies in a folder of it."""
    # Not resolved: the Python of an environment is a link to the one that it was made by. A program beside us keeps its
    # whole path, as a bare name would be searched for elsewhere.
    here = Path.cwd()
    return str(path.relative_to(here) if here in path.parents[1:] else path)

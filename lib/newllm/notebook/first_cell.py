"""What a notebook does first: find the clone, see that its packages are there, and show the library's messages.

Every notebook starts with `FIRST_CELL`; it works from the clone's folders and from one level above them (Colab's
``/content``), from anywhere once newllm is installed, and in Colab with nothing there, where it clones. Only the
standard library and IPython, which every notebook has, are imported here, because nothing else may be installed yet.
"""

import importlib.metadata
import logging
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from IPython import get_ipython
from IPython.core.interactiveshell import ExecutionInfo

# As pyproject.toml has it: a notebook that finds no clone cannot look there.
REPOSITORY = "https://github.com/newllm/newllm"

FIRST_CELL = f"""\
import importlib.util
import subprocess
import sys
from pathlib import Path

here = Path.cwd()
clones = [folder for folder in (here, *here.parents) if (folder / "lib/newllm").is_dir()]
clones += [found.parent.parent for pattern in ("*/lib/newllm", "drive/*/*/lib/newllm") for found in here.glob(pattern)]
if not clones and importlib.util.find_spec("newllm") is None:
    if "google.colab" not in sys.modules:
        raise ModuleNotFoundError("newllm is not here; clone {REPOSITORY} first.")
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", "{REPOSITORY}"], check=True)
    clones = [here / "newllm"]
sys.path[:0] = [str(clone / "lib") for clone in clones[:1]]

import newllm.notebook.first_cell

newllm.notebook.first_cell.prepare()"""

executed_cells: list[str] = []  # the source of each cell that was run since `prepare`, the latest last


def prepare() -> None:
    """Make the notebook ready to use the library.

    In Colab missing packages are installed, and torch stays as it is: Colab's torch fits its GPU.

    Raises
    ------
    ModuleNotFoundError
        Outside Colab, if packages are missing; it names them and says what to do.
    """
    missing = missing_packages()
    if missing and "google.colab" not in sys.modules:
        raise ModuleNotFoundError(
            f"{', '.join(missing)} not installed; run `make lab` in the clone, or choose its .venv."
        )
    if missing:
        _install(missing)
    _remember_cells()
    _show_messages()
    _show_figures()
    _show_comparisons()


def missing_packages() -> list[str]:
    """Return what ``pyproject.toml`` asks for and is not installed in the version, or one as new, that it asks for."""
    project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    if not project.is_file():  # installed from a wheel: pip has seen to the packages
        return []
    requirements = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [requirement for requirement in requirements if not _is_installed(requirement)]


def _is_installed(requirement: str) -> bool:
    name, comparison, bound = re.split(r"(>=|==)", requirement)
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    if comparison == "==":
        return _numbers(installed) == _numbers(bound)
    return _numbers(installed) >= _numbers(bound)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3]]


def _install(requirements: list[str]) -> None:
    """Install packages next to the torch that is there."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(f"torch=={importlib.metadata.version('torch')}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), *requirements]
        subprocess.run(command, check=True)


def _remember_cells() -> None:
    """Keep the source of the cells that are run from now on.

    IPython's own history, ``In``, is not kept where a notebook is run by nbval.
    """
    shell = get_ipython()
    if shell is not None and _remember_cell not in shell.events.callbacks["pre_run_cell"]:
        shell.events.register("pre_run_cell", _remember_cell)


def _remember_cell(execution: ExecutionInfo) -> None:
    executed_cells.append(execution.raw_cell or "")


def _show_messages() -> None:
    """Print the library's log messages under the cell that caused them."""
    logger = logging.getLogger("newllm")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _show_figures() -> None:
    """Store figures in the notebook as data, without plotly's own four megabytes; Colab draws in its own way."""
    if "google.colab" not in sys.modules:
        import plotly.io  # here, because it may have been installed a moment ago

        plotly.io.renderers.default = "plotly_mimetype"


def _show_comparisons() -> None:
    """Show how far a comparison is under the cell that runs it, unless whoever runs the notebook shows it."""
    # Here, because what they import may have been installed a moment ago.
    from newllm.notebook.live_view import NotebookView
    from newllm.progress import is_in_lines
    from newllm.runs.watching import Nothing, view_with

    view_with(Nothing if is_in_lines() else NotebookView)

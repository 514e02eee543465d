"""The training path of every notebook: with one arm, with unusual arms, without the baseline.

The cells run in this process, as papermill would hand them to a kernel, because starting a kernel and importing
everything anew for each notebook takes longer than all trainings here together.
"""

import ast
import re
from dataclasses import dataclass
from typing import Any

import nbformat
import pandas as pd
import plotly.io
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from newllm.config.experiment import ExperimentParameters
from newllm.config.notebooks import NOTEBOOKS
from newllm.config.profiles import load_parameters
from newllm.experiments.arms import Arm
from newllm.experiments.idle import given_in_vain
from newllm.files import project_root
from newllm.notebook import first_cell
from newllm.notebook.refresh import FIGURE
from newllm.notebook.tables import Table

# The same text and budget for all, so that they share windows and finished trials.
SMALL = {
    "profile": "smoke",
    "samples": 32,
    "val_samples": 16,
    "test_samples": 16,
    "projection_samples": 32,
    "max_iterations": 4,
}
SMALL |= {"stream_max_iterations": 4, "epochs": 1, "patience": 1, "seeds": [0]}

ARMS = {
    "02_main_training": (["dproj-random"], ["cascade-end-to-end", "context"]),
    "04_position_encodings": (["unified@position=none"], ["ka", "mla"]),
    "05_reversal_curse": (["dproj-random"],),
    "06_latent_attention": (["pythia"], ["mla"]),
    "07_context_pythia": (["context-random"],),
    "08_context_kv": (["context-kv-random"], ["context-kv-end-to-end", "context-kv-random"], ["pythia"]),
    "09_cascade": (["cascade-random"], ["cascade-end-to-end", "cascade-end-to-end@context_dim=80"], ["pythia"]),
    "10_key_attention_and_projected_values": (["pythia", "vdproj@value_dim=32"], ["ka"], ["narrow"]),
    "11_recall": (["context-kv-random"], ["pythia", "mla"]),
    "12_retrofit": (["narrow"],),
}
# Those that compare no arms: what is given beside the profile.
OTHERS = {
    "00_overview": {"size": "tiny"},
    "01_projection_training": {"proj_dim": 48, "max_iterations": 40},
    "03_causal_masks": {"alibi_slope": 0.25},
    "13_claims": {},
    "14_leaderboard": {"methods": ["mla"]},
}
CASES = [pytest.param(name, arms, id=f"{name[:2]}-{'+'.join(arms)}") for name, each in ARMS.items() for arms in each]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Outputs and prepared text that all notebooks here share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEWLLM_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        patch.setenv("NEWLLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(project_root() / "notebooks")
        yield


@pytest.fixture
def shell(folders):
    """A kernel's shell in this process, without what an earlier notebook left."""
    first_cell.executed_cells.clear()
    renderer = plotly.io.renderers.default
    with pd.option_context("display.max_colwidth", 50):
        yield InteractiveShell.instance()
    InteractiveShell.clear_instance()
    plotly.io.renderers.default = renderer


@dataclass(frozen=True)
class Executed:
    """A cell that ran: its source, what it printed, the figures that it displayed, and what it ended with as a table.

    Of a table all that stands in it; of an empty one, what it says instead.
    """

    source: str
    said: str
    figures: list[dict[str, Any]]
    table: str | None


def execute(shell: InteractiveShell, name: str, **given: object) -> list[Executed]:
    """Run a notebook's cells as papermill would."""
    notebook = parameterize_notebook(load_notebook_node(f"{name}.ipynb"), given)
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            with capture_output() as captured:
                result = shell.run_cell(cell.source)
            assert result.success, f"{cell.source}\n{captured.stdout}\n{result.error_in_exec!r}"
            figures = [output.data[FIGURE] for output in captured.outputs if FIGURE in output.data]
            # The shell writes the value of a last expression behind what was printed.
            said = captured.stdout.partition("Out[")[0]
            cells.append(Executed(cell.source, said, figures, text_of_table(result.result, said)))
    return cells


def text_of_table(value: object, said: str) -> str | None:
    """What a reader sees of a cell's last value, if it is a table; of one without rows, what was said above it."""
    if isinstance(value, Table):
        return repr(value).strip() or said
    if isinstance(value, pd.DataFrame):
        return said if value.empty else value.to_csv()
    return None


@pytest.mark.parametrize(("name", "arms"), CASES)
def test_every_cell_shows_the_arms_that_were_asked_for(shell, name, arms):
    given = SMALL | {"arms": arms}
    vain = given_in_vain(load_parameters(name, "smoke", given), given)
    cells = execute(shell, name, **{key: value for key, value in given.items() if key not in vain})
    assert_checks_hold(cells)
    pictures = [figure for cell in cells for figure in cell.figures]
    tables = [cell.table for cell in cells if cell.table is not None]
    for name_of_arm in (Arm.parse(arm).name for arm in arms):
        # The pictures of notebook 12 are of what its one arm becomes, those of 11 of differences from another arm.
        is_pictured = name != "12_retrofit" and (name, len(arms)) != ("11_recall", 1)
        assert not is_pictured or any(name_of_arm in str(picture) for picture in pictures)
        assert any(name_of_arm in table for table in tables)
    # An empty picture says why it is empty, as an empty table does in a sentence above it.
    assert all(picture["data"] or picture["layout"].get("annotations") for picture in pictures)
    assert all(table.strip() for table in tables)
    assert not any("nan" in table.lower().split() for table in tables)


@pytest.mark.parametrize(("name", "given"), OTHERS.items(), ids=[name[:2] for name in OTHERS])
def test_every_cell_runs_where_no_arms_are_compared(shell, name, given):
    known = {key: value for key, value in SMALL.items() if key in NOTEBOOKS[name].model_fields}
    assert_checks_hold(execute(shell, name, **known | given))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_a_notebook_suggests_can_be_asked_for(name):
    """Each line of "What to try next": its parameters together, and its arms, with the profile that it speaks of."""
    last = nbformat.read(project_root() / "notebooks" / f"{name}.ipynb", as_version=4).cells[-1]
    for line in last.source.splitlines():
        given = {key: ast.literal_eval(value) for key, value in re.findall(r"`(\w+) = ([^`]+)`", line)}
        parameters = load_parameters(name, given.pop("profile", "cpu"), given)
        suggested = [*given.get("arms", []), *re.findall(r'`"([^"`]+)"`', line)]
        for arm in suggested:
            assert isinstance(parameters, ExperimentParameters)
            Arm.parse(arm).configure(parameters)


def assert_checks_hold(cells: list[Executed]) -> None:
    """Every checked cell says something, and nothing of it is that a check failed."""
    checked = [cell for cell in cells if "NBVAL_CHECK_OUTPUT" in cell.source]
    assert checked
    for cell in checked:
        assert cell.said.strip(), cell.source
        assert not re.search(r"False|TOO LARGE", cell.said), f"{cell.source}\n{cell.said}"

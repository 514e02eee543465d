"""The committed notebooks: executed, checked, small, and readable on a code host."""

import json
from pathlib import Path

import nbformat
import pytest

from newllm.config.experiment import ExperimentParameters
from newllm.config.notebooks import NOTEBOOKS, Claims, Leaderboard, ProjectionTraining, ReversalCurse
from newllm.config.profiles import SHOWN, load_parameters
from newllm.data import prepare_data
from newllm.experiments import comparison
from newllm.experiments.comparison import compare
from newllm.experiments.projection_study import study_projections
from newllm.experiments.published import unpublished
from newllm.experiments.reversal import compare_reversal
from newllm.files import cache_folder
from newllm.notebook.first_cell import FIRST_CELL
from newllm.notebook.refresh import FIGURE, PICTURE
from newllm.publication.site_documents import colab_badge
from newllm.runs.folder import Run

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
CHECK = "# NBVAL_CHECK_OUTPUT"
LARGEST_BYTES = 1_000_000


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_a_notebook_for_every_set_of_parameters():
    assert {path.stem for path in PATHS} >= set(NOTEBOOKS)


def test_every_cell_was_executed_in_order_and_without_error(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    # A magic that failed has left its message among the warnings, and no error.
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_checked_cells_state_something(notebook):
    """nbval compares nothing in a cell that has no output: such a check could not fail."""
    checked = [cell for cell in code_cells(notebook) if cell.source.startswith(CHECK)]
    assert checked, "a notebook without a checked fact"
    for cell in checked:
        text = "".join(output.get("text", "") for output in cell.outputs)
        assert text.strip(), cell.source
        assert all(output.output_type == "stream" for output in cell.outputs), "only printed facts are compared"


def test_begins_with_the_bootstrap_and_the_profile_whose_results_are_published(notebook, path):
    """Where all that `cpu` asks for is published, a notebook shows it and trains nothing; refresh says so."""
    first, second = code_cells(notebook)[:2]
    assert first.source == FIRST_CELL
    assert second.metadata.tags == ["parameters"]
    values: dict[str, object] = {}
    exec(second.source, values)
    del values["__builtins__"]
    values.pop("__annotations__", None)
    parameters = load_parameters(path.stem, "cpu", {})
    missing = unpublished(parameters)
    shown = values.pop("profile")
    shows_records = isinstance(parameters, Leaderboard | Claims)
    published = f"all that params/cpu/{path.stem}.yaml asks for is published: run newllm refresh {path.stem[:2]}"
    assert shown == "cpu" or missing or shows_records, published
    assert shown == "smoke" or not missing, (
        f"params/cpu/{path.stem}.yaml asks for what is not published ({', '.join(missing)}): publish it, or leave it "
        "out there, and run newllm refresh"
    )
    assert set(values) == set(NOTEBOOKS[path.stem].model_fields) - {"profile"}
    assert set(values.values()) == {None}


def test_is_small_and_holds_no_script(path):
    assert path.stat().st_size < LARGEST_BYTES
    text = path.read_text(encoding="utf-8")
    assert "plotly.js v" not in text
    assert "<script" not in text


def test_holds_no_widget_state_and_no_machine(notebook, path):
    assert "widgets" not in notebook.metadata
    outputs = json.dumps([cell.outputs for cell in code_cells(notebook)])
    assert str(Path.home()) not in outputs
    assert str(FOLDER.parent) not in outputs


def test_figures_can_be_seen_where_no_script_runs(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if FIGURE in output.get("data", {}):
                assert PICTURE in output.data, cell.source


def test_explains_itself(notebook):
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert prose[0].source.startswith("# ")
    assert len(prose) * 3 >= len(code_cells(notebook)), "code without a word between"
    assert "What to try next" in prose[-1].source


def test_opens_in_colab(notebook, path):
    assert colab_badge(path.stem) in notebook.cells[0].source.splitlines()


def test_the_calls_of_its_cells_take_over_what_is_published_and_begin_nothing(notebook, path, tmp_path, monkeypatch):
    values: dict[str, object] = {}
    exec(code_cells(notebook)[1].source, values)
    parameters = load_parameters(path.stem, str(values["profile"]), {})
    if values["profile"] != SHOWN or not isinstance(parameters, ProjectionTraining | ExperimentParameters):
        pytest.skip("makes nothing, or is not published yet")

    def begun(*_, **__):
        raise AssertionError(f"{path.stem} trains or times what is published")

    monkeypatch.setenv("NEWLLM_CACHE", str(cache_folder()))
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(Run, "start", begun)
    monkeypatch.setattr(comparison, "run_side_by_side", begun)  # which may go on in other processes
    if isinstance(parameters, ReversalCurse):
        assert compare_reversal(parameters, tmp_path / "run")
    elif isinstance(parameters, ProjectionTraining):
        assert study_projections(parameters, prepare_data(parameters), tmp_path / "run")
    else:
        assert len(compare(parameters, prepare_data(parameters), tmp_path / "run"))

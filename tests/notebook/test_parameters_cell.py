"""The parameters cell: all parameters, as papermill's help reads them, and as a notebook reads itself."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from papermill.translators import PythonTranslator

from newllm.config.notebooks import NOTEBOOKS
from newllm.notebook.parameters_cell import TAG, parameters_cell, renew_parameters


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_papermill_shows_each_parameter_with_its_type_and_meaning(notebook):
    cell = new_code_cell(parameters_cell(notebook, "cpu"))
    shown = {parameter.name: parameter for parameter in PythonTranslator.inspect(cell)}
    fields = NOTEBOOKS[notebook].model_fields
    assert set(shown) == set(fields)
    assert shown["profile"].default == '"cpu"'
    for name, field in fields.items():
        meaning = shown[name].help.removesuffix("...")
        assert meaning and str(field.description).replace("=", " ").startswith(meaning)
        assert shown[name].inferred_type_name in {"str", "int", "float", "bool", "list"}
    assert all(len(line) <= 120 for line in cell.source.splitlines())


def test_a_notebook_gets_its_profile_and_keeps_its_other_cells():
    cell = new_code_cell('profile = "smoke"\nold = None', metadata={"tags": [TAG]})
    other = new_code_cell('profile = "mine"')
    for _ in range(2):
        renew_parameters([cell, other], "02_main_training", "gpu")
        assert cell.source == parameters_cell("02_main_training", "gpu")
    assert other.source == 'profile = "mine"'
    values: dict[str, object] = {}
    exec(cell.source, values)
    assert values["lr"] is None and values["profile"] == "gpu"
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell, other]))

"""The page of parameters: all of them, each said once, with what the profiles give."""

import re

import pytest
import yaml

from newllm.config.notebooks import NOTEBOOKS
from newllm.config.profiles import notebooks_of, profile_path, profiles
from newllm.publication.parameters_page import parameters_page

ROWS = {
    match[1]: [cell.strip() for cell in match[0].strip("|").split(" | ")]
    for match in re.finditer(r"^\| `(\w+)` \|.*\|$", parameters_page(), re.MULTILINE)
}
COLUMNS = ["parameter", "meaning", "type", "default", *profiles()]


def test_every_parameter_has_one_row_and_every_cell_its_column():
    assert set(ROWS) == {name for kind in NOTEBOOKS.values() for name in kind.model_fields}
    assert len(re.findall(r"^\| `", parameters_page(), re.MULTILINE)) == len(ROWS)
    assert {len(row) for row in ROWS.values()} == {len(COLUMNS)}


@pytest.mark.parametrize("profile", profiles())
def test_each_value_of_a_profile_stands_in_its_column(profile):
    column = COLUMNS.index(profile)
    for notebook in notebooks_of(profile):
        stored = yaml.safe_load(profile_path(notebook, profile).read_text(encoding="utf-8"))
        for name, value in stored.items():
            if isinstance(value, int | str) and not ROWS[name][column].startswith("another in each"):
                assert f"`{value}`".lower() in ROWS[name][column].lower(), (notebook, name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("samples", "whole number or `all`"),
        ("epochs", "whole number > 0"),
        ("convergence_target", "number > 0 ≤ 1"),
        ("arms", "list of text"),
        ("rerun", "true or false"),
        ("facts_file", "path or none"),
        ("precision", "one of `float32`, `tf32`, `bfloat16`"),
    ],
)
def test_types_are_said_in_words(name, said):
    assert ROWS[name][COLUMNS.index("type")] == said


def test_what_stands_in_angle_brackets_is_shown():
    assert "bpe:&lt;size>" in ROWS["tokenizer"][COLUMNS.index("meaning")]

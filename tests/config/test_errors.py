"""Sentences about parameters: each names the key, and what to do where a value is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from newllm.config.errors import explain, nearest, nearest_parameter
from newllm.config.notebooks import NOTEBOOKS


class Tea(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cups: int = Field(gt=0, description="how many drink")


def explained(values, **changes) -> str:
    with pytest.raises(ValidationError) as caught:
        Tea.model_validate(values)
    return explain(caught.value, Tea, "tea", **{"given": {}, "where": "tea.yaml", **changes})


def test_a_missing_value_can_be_given_in_the_file_and_by_an_option_where_there_is_one():
    assert explained({}) == "cups is how many drink and has no default; give it a value in tea.yaml."
    assert explained({}, option="-p").endswith("give it a value in tea.yaml or with -p cups=<value>.")


def test_the_file_is_named_where_the_value_comes_from_it():
    assert explained({"cups": 0}) == "cups is 0 (in tea.yaml), but it must be greater than 0."
    assert explained({"cups": 0}, given={"cups": 0}) == "cups is 0, but it must be greater than 0."


@given(st.lists(st.text("abc", min_size=1), min_size=1, unique=True), st.text("abcxyz"))
def test_an_unknown_name_is_told_a_known_one(known, key):
    end = nearest(key, known)
    assert any(name in end for name in known)
    assert nearest(known[0], known) == f"; did you mean {known[0]}?"


@pytest.mark.parametrize(
    ("key", "end"),
    [
        ("learning_rate", "; did you mean lr, matrix_lr or projection_lr?"),  # their descriptions begin with it
        ("rate", "; did you mean lr, matrix_lr, schedule, warmup or projection_lr?"),
        ("sampels", "; did you mean samples?"),
        ("foo", "; there are profile, device, "),
        ("a", "; there are profile, device, "),
        ("the", "; there are profile, device, "),
        ("", "; there are profile, device, "),
        ("(", "; there are profile, device, "),
    ],
)
def test_an_unknown_parameter_is_told_those_that_are_described_by_its_words(key, end):
    assert nearest_parameter(key, [NOTEBOOKS["02_main_training"]]).startswith(end)

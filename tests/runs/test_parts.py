"""Parts of a run: done once, to the last digit, and taken over where an equal one is finished."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.runs import parts
from newllm.runs.folder import Run
from newllm.runs.parts import Part, do_part, find_part, is_part
from newllm.runs.publishing import plan_publication, tables_in


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "outputs_folder", lambda: tmp_path / "outputs")
    monkeypatch.setattr(parts, "reference_folder", lambda: tmp_path / "reference")


def never(_: Run) -> dict[str, pd.DataFrame]:
    pytest.fail("it was done again")


def doubled(run: Run) -> dict[str, pd.DataFrame]:
    (run.folder / "weights.safetensors").write_bytes(b"large")
    return {"numbers": pd.DataFrame({"given": [1, 2], "doubled": [2.0, 4.0]})}


def test_a_part_is_done_once(tmp_path):
    first = do_part(Part("double", {"of": [1, 2]}), tmp_path / "run", doubled)
    again = do_part(Part("double", {"of": [1, 2]}), tmp_path / "run", never)
    pd.testing.assert_frame_equal(first.tables["numbers"], again.tables["numbers"])
    assert is_part(Part("double", {}).run_in(tmp_path / "other").identity)


def test_an_equal_one_is_taken_over_from_the_outputs_and_what_differs_is_done(tmp_path):
    do_part(Part("a/double", {"of": 1}), tmp_path / "outputs" / "01" / "cpu-1", doubled)
    other = tmp_path / "outputs" / "01" / "cpu-2"
    taken = do_part(Part("a/double", {"of": 1}), other, never)
    assert list(taken.tables["numbers"].doubled) == [2.0, 4.0]
    elsewhere = tmp_path / "outputs" / "01" / "cpu-3"
    assert find_part(Part("a/double", {"of": 2}), elsewhere) is None
    assert find_part(Part("a/double", {"of": 1}), elsewhere, rerun=True) is None
    # The same settings in a part of another name are another thing.
    assert find_part(Part("b/double", {"of": 1}), elsewhere) is None


def test_a_published_one_comes_without_its_weights(tmp_path):
    done = do_part(Part("double", {"of": 1}), tmp_path / "somebody's", doubled)
    plan_publication(done.folder, tmp_path / "reference" / "01" / "double", tables_in(done.folder)).write()
    taken = do_part(Part("double", {"of": 1}), tmp_path / "mine", never)
    assert list(taken.tables["numbers"].given) == [1, 2]
    assert not list((tmp_path / "mine").rglob("*.safetensors"))
    assert list(done.folder.glob("*.safetensors"))


@settings(max_examples=25)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_numbers_come_back_to_the_last_digit(tmp_path_factory, numbers):
    table = pd.DataFrame({"number": numbers})
    done = do_part(Part("exact", {}), tmp_path_factory.mktemp("run"), lambda _: {"numbers": table})
    assert list(done.tables["numbers"].number) == numbers


def test_a_part_that_failed_is_done_again(tmp_path):
    def fails(run: Run) -> dict[str, pd.DataFrame]:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        do_part(Part("double", {}), tmp_path / "run", fails)
    assert do_part(Part("double", {}), tmp_path / "run", doubled).tables

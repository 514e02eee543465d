import pytest

from newllm.files import project_root, reference_folder
from newllm.publication import reference
from newllm.publication.leaderboard import read_board
from newllm.runs.folder import SWEEPS_FOLDER


def test_reference_records_are_of_one_comparison():
    """Rows of a table are compared, so data, budget and size must be the same."""
    board = read_board([reference_folder() / SWEEPS_FOLDER / reference.LEADING_SWEEP])
    assert board.set_apart.empty
    assert len(board.budgets) <= 1
    for budget in board.budgets:
        assert set(budget.summary["arm"]) == set(budget.records["arm"]), "an arm with other settings has its own row"
        records = budget.records
        assert (records["places"].map(len) == 1).all()
        assert (records["certificate"] < 1e-9).all()
        assert (records["kv_bytes"] == records["kv_formula_bytes"]).all()
        assert not records["has_uncommitted_changes"].any()
        assert list(budget.floor["arm"]) == ["4-gram", "3-gram", "2-gram"]


def test_the_picture_of_the_readme_is_there():
    picture = reference_folder() / reference.PICTURE
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"outputs/reference/{reference.PICTURE}" in (project_root() / "README.md").read_text(encoding="utf-8")


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no record"):
        reference.publish(tmp_path)

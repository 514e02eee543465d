import pytest

from newllm import reference
from newllm.config import MainTraining
from newllm.folders import project_root
from newllm.runs import load_records


def test_reference_records_are_of_one_comparison():
    """Rows of a table are compared, so data, budget and size must be the same."""
    records = load_records(reference.reference_folder() / MainTraining.notebook)
    settings = ("source", "tokenizer", "samples", "seq_length", "val_samples", "epochs", "lr", "batch_size", "size")
    for name in settings:
        assert len({record[name] for record in records["parameters"]}) == 1, name
    assert (records["certificate"] < 1e-9).all()
    assert (records["kv_bytes"] == records["kv_formula_bytes"]).all()
    assert not records["has_uncommitted_changes"].any()


def test_the_picture_of_the_readme_is_there():
    picture = reference.reference_folder() / reference.PICTURE
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"outputs/reference/{reference.PICTURE}" in (project_root() / "README.md").read_text(encoding="utf-8")


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no record"):
        reference.publish(tmp_path)

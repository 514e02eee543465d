"""In what two runs differ: only what differs is shown, and only of what can be believed."""

import shutil

import pytest

from newllm.files import reference_folder
from newllm.runs.differences import parameter_differences
from newllm.runs.lock import RunError
from tests.publication.board_records import write_record


def test_only_what_differs_is_shown(tmp_path):
    first = write_record(tmp_path / "a", "pythia").parent
    second = write_record(tmp_path / "b", "mla", lr=3e-4, clip=0.5).parent
    rows = parameter_differences(first, second).set_index("name")
    assert set(rows.index) == {"lr", "clip", "arms"}
    assert list(rows.loc["lr"]) == [1e-4, 3e-4]
    assert parameter_differences(first, first).empty


def test_what_is_no_run_is_refused(tmp_path):
    first = write_record(tmp_path / "a").parent
    with pytest.raises(RunError, match="neither"):
        parameter_differences(first, tmp_path)
    (first / "record.json").write_text("{}")
    with pytest.raises(RunError, match="not a record of this version"):
        parameter_differences(first, first)


def test_a_record_that_was_changed_since_its_run_finished_is_refused(tmp_path):
    published = next(reference_folder().rglob("record.json")).parent
    changed = tmp_path / "changed"
    shutil.copytree(published, changed)
    assert parameter_differences(published, changed).empty
    record = changed / "record.json"
    record.write_text(record.read_text().replace('"clip": ', '"clip": 1'))
    with pytest.raises(RunError, match="not as the run left it"):
        parameter_differences(published, changed)

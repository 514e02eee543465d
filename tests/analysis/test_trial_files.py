"""Files of trials are read in one way: what is wrong with one is said in a sentence that names it."""

import json

import pandas as pd
import pytest

from newllm.analysis.trial_files import read_entry, read_rows, read_window_losses, rows_of_trials
from newllm.files import DamagedFileError


@pytest.fixture
def file(tmp_path):
    return tmp_path / "evaluation.json"


def test_the_rows_of_all_trials_say_whose_they_are(tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        rows = [{"loss": 1.0 * number}, {"loss": 2.0 * number}]
        (tmp_path / str(number) / "history.json").write_text(json.dumps({"main": {"rows": rows}}))
    records = pd.DataFrame({"arm": ["mla", "mqa"], "seed": [3, 4], "folder": [tmp_path / "1", tmp_path / "2"]})
    table = rows_of_trials(records, "history.json", "main", "rows")
    assert table.to_dict("list") == {
        **{"loss": [1.0, 2.0, 2.0, 4.0], "arm": ["mla", "mla", "mqa", "mqa"], "seed": [3, 3, 4, 4]}
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "has no recall > tokens"),
        ('{"recall": {}}', "has no recall > tokens"),
        ('{"recall": {"tokens": {}}}', "recall > tokens is no list of rows"),
        ('{"recall": {"tokens": [1]}}', "recall > tokens is no list of rows"),
    ],
)
def test_what_is_wrong_with_a_damaged_file_is_said(file, text, said):
    file.write_text(text)
    with pytest.raises(DamagedFileError, match=f"evaluation.json is damaged: .*{said}"):
        read_rows(file, "recall", "tokens")


def test_a_file_that_is_not_there_is_not_damaged(file):
    with pytest.raises(FileNotFoundError):
        read_entry(file, "recall")


@pytest.mark.parametrize(
    ("losses", "groups", "said"),
    [
        ([1.0, None], [0, 1], "not finite"),
        ([1.0, 2.0], [0], "shape"),
        ([], [], "shape"),
        ([[1.0]], [[0]], "shape"),
        (["x"], [0], "no numbers"),
        ([1.0], [{}], "no numbers"),
    ],
)
def test_losses_are_one_finite_number_a_window(file, losses, groups, said):
    file.write_text(json.dumps({"window_losses": losses, "window_groups": groups}))
    with pytest.raises(DamagedFileError, match=said):
        read_window_losses(file)


def test_of_several_stages_one_is_read(file):
    stored = {"window_losses": {"original": [1.0, 2.0], "healed": [3.0, 4.0]}, "window_groups": [0, 1]}
    file.write_text(json.dumps(stored))
    losses, groups = read_window_losses(file, "healed")
    assert losses.tolist() == [3.0, 4.0] and groups.tolist() == [0, 1]
    with pytest.raises(DamagedFileError, match="has no window_losses > lost"):
        read_window_losses(file, "lost")

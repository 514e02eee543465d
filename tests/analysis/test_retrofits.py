"""Retrofits of one model: each stage once, its seeds averaged, and other parents left out."""

import json

import numpy as np
import pytest

from newllm.analysis.differences import no_difference
from newllm.analysis.retrofits import AVERAGED, EMPTY, retrofit_stages
from newllm.files import read_json, write_json
from tests.retrofit.finished import run_retrofits_of_two_seeds


@pytest.fixture(scope="module")
def folders(text_data, text_folder, tmp_path_factory):
    return run_retrofits_of_two_seeds(tmp_path_factory.mktemp("retrofits"), text_data, text_folder)


def test_seeds_are_averaged_and_what_no_seed_decides_stands_once(folders):
    stages = retrofit_stages(folders).set_index("what")
    assert stages.groupby(level=0)["seeds"].apply(sorted).to_dict() == {
        "original": [0],
        "position absorbable": [0],
        "latent, weighted": [0],
        "latent, weighted, at a rate of 0.01": [2],
        "replaced parts random (mla), at a rate of 0.01": [2],
        "not compressed, at a rate of 0.01": [2],
        "2 averaged heads, at a rate of 0.01": [2],
    }
    reports = [read_json(folder / "retrofit.json")["report"] for folder in folders]
    healed = [next(row for row in report if row["stage"] == "healed") for report in reports]
    row = stages[stages["healing_tokens"] > 0].loc["latent, weighted, at a rate of 0.01"]
    assert row["perplexity"] == pytest.approx(np.mean([each["perplexity"] for each in healed]))
    assert row["difference"] == pytest.approx(np.mean([each["difference"] for each in healed]), abs=1e-5)
    assert np.isnan(stages.loc["original", "difference"])


def test_a_row_has_what_is_said_of_it_and_what_a_report_has(folders):
    stages = retrofit_stages(folders)
    assert {*EMPTY, *AVERAGED, *no_difference(), "control", "method", "seeds"} == set(stages)
    assert set(retrofit_stages([])) <= set(stages)


def test_another_parent_stands_apart(folders, tmp_path):
    other = read_json(folders[1] / "retrofit.json")
    write_json(tmp_path / "retrofit.json", other | {"described": other["described"] | {"model": "another"}})
    assert retrofit_stages([folders[0], tmp_path])["seeds"].max() == 1


def test_averaged_heads_that_are_a_control_elsewhere_stand_once(folders, tmp_path):
    """Turned to each other, heads are averaged in a retrofit as in a control, and the model is the same."""
    found = read_json(folders[0] / "retrofit.json")
    control = next(row for row in found["report"] if "averaged head" in row["stage"])
    retrofit = control | {"stage": "heads averaged, aligned", "control": False}
    described = found["described"]
    parameters = described["parameters"] | {"method": "mqa", "num_key_value_heads": 2}
    changed = {"report": [found["report"][0], retrofit], "described": described | {"parameters": parameters}}
    write_json(tmp_path / "retrofit.json", found | changed)
    losses = json.loads((folders[0] / "window_losses.json").read_bytes())
    losses["window_losses"]["heads averaged, aligned"] = losses["window_losses"][control["stage"]]
    (tmp_path / "window_losses.json").write_text(json.dumps(losses))
    stages = retrofit_stages([folders[0], tmp_path]).set_index("what")
    averaged = stages.loc["2 averaged heads, at a rate of 0.01"]
    assert averaged["control"]
    assert averaged["method"] == "mqa"

"""Retrofits of one model: each stage once, its seeds averaged, and other parents left out."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from newllm.analysis.differences import no_difference
from newllm.analysis.retrofits import AVERAGED, EMPTY, beside_training, retrofit_stages
from newllm.evaluation.comparison_statistics import seed_variance, two_way_difference
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


def another(folder: Path, target: Path, model: str = "", **parameters: Any) -> Path:
    """Copy a retrofit, as it would be of another model or with other parameters."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("model"))
    found = read_json(folder / "retrofit.json")
    described = found["described"]
    changed = {"model": model or described["model"], "parameters": described["parameters"] | parameters}
    write_json(target / "retrofit.json", found | {"described": described | changed})
    return target


@pytest.mark.parametrize("turned", [False, True])
def test_retrofits_that_differ_are_no_seeds_of_one_another(folders, tmp_path, turned):
    windows = read_json(folders[0] / "retrofit.json")["described"]["parameters"]["calibration_windows"]
    both = [folders[0], another(folders[0], tmp_path / "other", calibration_windows=windows + 1)]
    stages = retrofit_stages(both[::-1] if turned else both).set_index("what")
    assert stages["seeds"].max() == 1
    for count in (windows, windows + 1):
        assert f"latent, weighted, at a rate of 0.01, calibrated on {count} windows" in stages.index
    # What no calibration text reaches is the same.
    assert list(stages.index).count("original") == list(stages.index).count("not compressed, at a rate of 0.01") == 1
    steps = [folders[0], another(folders[0], tmp_path / "steps", batch_size=99, healing_evaluations=7)]
    healed = retrofit_stages(steps).query("healing_tokens > 0 and stage == 'healed'")
    assert healed["what"].str.contains("healed in steps of 99 windows, with 7 evaluations in healing").sum() == 1
    assert list(healed["seeds"]) == [1, 1] and healed["conversion"].nunique() == 1


def test_what_was_converted_is_of_the_first_parent_and_of_one_seed_of_training(folders, tmp_path):
    found = read_json(folders[0] / "retrofit.json")
    healed = next(row for row in found["report"] if row["stage"] == "healed")
    converted = another(folders[0], tmp_path / "converted")
    stored = json.loads((converted / "window_losses.json").read_bytes())
    losses = np.array(stored["window_losses"]["healed"])
    # As if each window were of a document of its own.
    stored["window_groups"] = list(range(len(losses)))
    (converted / "window_losses.json").write_text(json.dumps(stored))
    arms, rows = [losses + 0.1, losses + 0.13, losses + 0.19], []
    for seed, own in enumerate(arms):
        folder = tmp_path / f"mla-seed{seed}"
        folder.mkdir()
        scores = {"window_losses": own.tolist(), "window_groups": stored["window_groups"]}
        (folder / "evaluation.json").write_text(json.dumps(scores))
        (folder / "history.json").write_text(json.dumps({"main": [{"tokens_per_second": 8.0, "seconds": 2.0}]}))
        row = {"arm": "mla", "method": "mla", "seed": seed, "folder": folder, "perplexity": np.exp(own.mean())}
        about = {"data": found["described"]["data"]}
        rows.append(row | {"kv_bytes_per_token": healed["bytes_per_token"], "parameters": about})
    records = pd.DataFrame(rows)
    table = beside_training([converted], records)
    (row,) = table[table["tokens"] > 16].to_dict("records")
    expected = two_way_difference(
        [losses], arms, stored["window_groups"], pooled_seed_variance=seed_variance([[arm.mean() for arm in arms]])
    ).interval
    assert (row["difference"], row["difference_high"]) == pytest.approx((expected.mean, expected.high), abs=1e-6)
    other = another(converted, tmp_path / "other parent", model="another")
    pd.testing.assert_frame_equal(beside_training([converted, other], records), table)

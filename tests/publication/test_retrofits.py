"""Retrofits of one model, published: each stage once, its seeds averaged, and other parents left out."""

import json

import numpy as np
import pytest
import torch

from newllm.analysis.retrofits import retrofit_stages
from newllm.config.groups import EvaluationParameters
from newllm.config.retrofit import RetrofitParameters
from newllm.files import read_json, write_json
from newllm.models import create
from newllm.publication import document_tables, reference
from newllm.retrofit.running import RetrofitPlan, run_retrofit
from newllm.runs.saved_model import load_trained_model
from newllm.runs.saving import save_trained_model
from tests.comparison_setup import settings


@pytest.fixture(scope="module")
def folders(text_data, text_folder, tmp_path_factory):
    """One retrofit with two seeds, each healed for a step."""
    place = tmp_path_factory.mktemp("retrofits")
    torch.manual_seed(0)
    save_trained_model(place / "parent", create("pythia", "tiny", vocab_size=320), text_data.tokenizer)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("newllm.retrofit.running.prepare_data", lambda parameters: text_data)
        for seed in (0, 1):
            plan = RetrofitPlan(
                parent=load_trained_model(place / "parent"),
                name="pythia-seed0",
                parameters=RetrofitParameters(keep=0.5, healing_tokens=32, healing_lr=0.01, batch_size=1),
                text=settings(text_folder),
                evaluation=EvaluationParameters(continuation_tokens=2),
                seed=seed,
            )
            found.append(place / f"pythia-seed0-mla-{seed}")
            run_retrofit(plan, found[-1], torch.device("cpu"))
    return found


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


def test_another_parent_stands_apart(folders, tmp_path):
    other = read_json(folders[1] / "retrofit.json")
    write_json(tmp_path / "retrofit.json", other | {"described": other["described"] | {"model": "another"}})
    assert retrofit_stages([folders[0], tmp_path])["seeds"].max() == 1


def test_they_are_published_without_weights_and_stand_in_tables(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "reference_folder", lambda: tmp_path / "reference")
    with pytest.raises(reference.UnpublishedError, match="newllm retrofit"):
        document_tables.retrofits()
    for folder in folders:
        reference.publish(folder)
    published = tmp_path / "reference" / "retrofit" / folders[0].name
    assert {path.name for path in published.iterdir()} == {
        *("retrofit.json", "report.csv", "window_losses.json", "run.json", "finished.json")
    }
    table = document_tables.retrofits()
    assert list(table["what became of it"]) == ["original", "latent, weighted"]
    assert table["KV bytes a token (measured)"].tolist() == ["1,024", "512"]
    healed = document_tables.healed_retrofits()
    assert set(healed["seeds"]) == {"", "2"}
    assert list(healed[""]).count("control") == 3


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

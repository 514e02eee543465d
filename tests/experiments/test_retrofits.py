"""Retrofits of a notebook: made from the parent's weights, and once they are published, taken over without weights."""

import numpy as np
import pandas as pd
import pytest

from newllm.analysis.retrofits import beside_training, retrofit_stages
from newllm.config.errors import ParameterError
from newllm.config.notebooks import RetrofitNotebook
from newllm.experiments import published, retrofits
from newllm.experiments.planning import check_before_work
from newllm.files import read_json
from newllm.publication import reference
from newllm.retrofit import report
from newllm.runs.folder import finished_runs
from tests.comparison_setup import settings


@pytest.fixture
def asked(text_folder):
    known = settings(text_folder, arms=["pythia"]).model_dump()
    return RetrofitNotebook(**known | {"retrofits": ["mla@keep=0.5", "mqa@averaging=naive"], "calibration_windows": 2})


def test_what_is_published_is_shown_and_not_made_again(finished_comparison, asked, text_data, tmp_path, monkeypatch):
    parent, outputs, shown = finished_comparison[1] / "pythia-seed1", tmp_path / "outputs", tmp_path / "reference"
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(outputs))
    for module in (reference, retrofits):
        monkeypatch.setattr(module, "reference_folder", lambda: shown)
    monkeypatch.setattr(reference, "draw_reference", lambda: None)
    monkeypatch.setattr("newllm.retrofit.running.prepare_data", lambda parameters: text_data)
    run = outputs / "12_retrofit" / "smoke-1"
    assert len(published._unpublished_retrofits(parent, asked, finished_runs(shown))) == 2
    made = retrofits.run_retrofits(parent, asked, run / "retrofit", asked)
    assert all((folder / "model").is_dir() for folder in made)
    reference.publish(run)
    assert not published._unpublished_retrofits(parent, asked, finished_runs(shown))

    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "a fresh clone"))
    monkeypatch.setattr("newllm.retrofit.running.convert", None)
    taken = retrofits.run_retrofits(parent, asked, tmp_path / "a fresh clone" / "12" / "retrofit", asked)
    assert not any((folder / "model").exists() for folder in taken)
    first, second = (retrofit_stages(folders).drop(columns="folder") for folders in (made, taken))
    pd.testing.assert_frame_equal(first, second)
    assert [folder.name for folder in taken] == [folder.name for folder in made]
    # One changed setting is another retrofit, and is made.
    other = asked.model_copy(update={"retrofits": ["mla@keep=0.25"]})
    with pytest.raises(TypeError):
        retrofits.run_retrofits(parent, other, tmp_path / "a fresh clone" / "12" / "retrofit", other)


def test_budgets_and_seeds_of_healing_are_retrofits_each_which_share_what_was_scored(
    finished_comparison, asked, text_data, tmp_path, monkeypatch
):
    parent = finished_comparison[1] / "pythia-seed1"
    monkeypatch.setattr("newllm.retrofit.running.prepare_data", lambda parameters: text_data)
    healing = {
        "retrofits": ["mla@keep=0.5,batch_size=1,controls=false"],
        "healing_tokens": [0, 192],
        "healing_seeds": [0, 1],
    }
    parameters = RetrofitNotebook(**asked.model_dump() | healing)
    scored = []

    def count(model, *others):
        scored.append(model)
        return score(model, *others)

    score = report._score
    monkeypatch.setattr(report, "_score", count)
    folders = retrofits.run_retrofits(parent, parameters, tmp_path / "retrofit", parameters)
    stages = retrofit_stages(folders)
    # No seed decides a conversion without healing.
    assert len(folders) == 3
    assert list(stages.loc[stages["healing_tokens"] > 0, "seeds"]) == [2]
    # The original, the absorbable and the converted model once, and two that were healed.
    assert len(scored) == 5


def test_a_llama_is_converted_on_files_of_its_own(finished_comparison, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(retrofits, "LLAMA_WINDOW", 16)
    monkeypatch.setattr(retrofits, "LLAMA_CALIBRATION", 2)
    files = {}
    for name in ("llama_calibration_file", "llama_scored_file"):
        files[name] = tmp_path / f"{name}.txt"
        files[name].write_text(f"{name} of the cat that sat on the mat, " * 20, encoding="utf-8")
    given = {"llama_retrofits": ["mla@keep=0.5,controls=false"], "llama_windows": 3, **files}
    parameters = RetrofitNotebook(**asked.model_dump() | given)
    (folder,) = retrofits.run_llama_retrofits(finished_comparison[1] / "pythia-seed1", parameters, tmp_path / "llama")
    described = read_json(folder / "retrofit.json")["described"]
    assert described["text"]["scored_windows"] == 3 and described["text"]["seq_length"] == 16
    missing = parameters.model_copy(update={"llama_scored_file": tmp_path / "nowhere.txt"})
    with pytest.raises(ParameterError, match="scored_file: there is no file"):
        check_before_work(missing)
    with pytest.raises(ValueError, match="go together"):
        RetrofitNotebook(**asked.model_dump() | {"llama_scored_file": files["llama_scored_file"]})


def test_what_was_converted_stands_beside_what_was_trained_from_nothing(
    finished_comparison, asked, text_data, tmp_path, monkeypatch
):
    records, outputs = finished_comparison
    # Another arm stands in for a trained `mla`: of it only losses are read.
    records = records.loc[["pythia", "narrow"]].rename(index={"narrow": "mla"})
    records.loc["mla", ["method", "kv_bytes_per_token"]] = ["mla", 128.0]
    monkeypatch.setattr("newllm.retrofit.running.prepare_data", lambda parameters: text_data)
    # Bytes of `mla`, and others that no arm has.
    ways = ["mla@keep=0.125,rotary_heads=shared,controls=false", "mla@keep=0.5,controls=false"]
    parameters = RetrofitNotebook(**asked.model_dump() | {"retrofits": ways, "healing_tokens": [0, 192]})
    folders = retrofits.run_retrofits(outputs / "pythia-seed1", parameters, tmp_path / "retrofit", parameters)
    table = beside_training(folders, records.reset_index())
    assert list(table["arm"]) == 3 * ["mla"] and list(table["what"].isna()) == [True, False, False]
    # Both were trained for two epochs of the same 24 windows of 16 tokens, and healed on 192 tokens of them.
    assert list(table["tokens"]) == [768, 768, 960]
    nothing, converted = table.iloc[0], table.iloc[1]
    assert nothing["perplexity"] == records.loc["mla", "perplexity"] and pd.isna(nothing["difference"])
    assert converted["difference"] == pytest.approx(np.log(converted["perplexity"] / nothing["perplexity"]), abs=1e-4)
    assert beside_training(folders, records.reset_index().query("arm == 'pythia'")).empty
    assert beside_training([], records.reset_index()).empty

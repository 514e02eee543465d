"""Recipes: what is trained and frozen in each arm, and on whose embedding it stands."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from newllm import models
from newllm.config.errors import ParameterError
from newllm.data import TextData
from newllm.data.tokenizers import tokenizer_identity
from newllm.experiments import recipes
from newllm.experiments.arms import Arm
from newllm.experiments.comparison import ComparisonError, compare
from newllm.experiments.planning import check_before_work
from newllm.experiments.recipes import RECIPES, Trained, Training
from newllm.experiments.trial import Trial
from newllm.models.recipe import WINDOWS, Recipe
from newllm.models.registry import find
from newllm.recurrence.checkpoint import ProjectionMismatchError, load_projection
from newllm.training.embeddings import adopt_embedding, read_embedding
from tests.comparison_setup import saved, settings, trial_of


def moved(model: torch.nn.Module, start: torch.nn.Module) -> set[str]:
    """Parts of the model whose weights training has changed."""
    before = start.state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    parts = ("embed_in", "embed_norm", "context_blocks", "layers", "final_layer_norm", "embed_out")
    assert all(any(part in name for part in parts) for name in before)
    return {part for part in parts if any(part in name for name in changed)}


def test_each_arm_trains_what_it_says(finished_comparison, text_folder, text_data):
    _, folder = finished_comparison
    always = {"layers", "final_layer_norm", "embed_out"}
    expected = {
        "pythia": always | {"embed_in"},
        "dproj-oacd": always | {"embed_in", "context_blocks"},
        "dproj-random": always | {"embed_in"},
        "dproj-end-to-end": always | {"embed_in", "embed_norm", "context_blocks"},
        "dproj-oacd-frozen-embedding": always | {"context_blocks"},
    }
    for arm, parts in expected.items():
        start = Arm.parse(arm).build(settings(text_folder), len(text_data.tokenizer), seed=1)
        assert moved(saved(folder, arm), start) == parts, arm
    # OACD alone has changed the recurrence: main training of another arm, from the same start, has left it there.
    ours, theirs = (saved(folder, arm).context_blocks for arm in ("dproj-oacd", "dproj-oacd-frozen-embedding"))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_model_brings_its_own_way_of_training(text_folder, text_data, tmp_path, monkeypatch):
    asked: list[tuple[str, int]] = []

    def recipe(trial: Trial, model: Any, text: TextData, folder: Path, device: torch.device) -> Trained:
        asked.append((trial.arm.name, trial.seed))
        return RECIPES[WINDOWS].train(trial, model, text, folder, device)

    own = Recipe("own", continuous=False)
    monkeypatch.setitem(RECIPES, own, Training(recipe, RECIPES[WINDOWS].estimate))
    monkeypatch.setattr(find("mla").model_class, "recipe", own)
    compare(settings(text_folder, arms=["mla", "unified"], epochs=1), text_data, tmp_path)
    assert asked == [("mla", 1)]


def test_every_model_has_a_recipe():
    assert {find(name).model_class.recipe for name in models.names()} <= set(RECIPES)


def test_a_cascade_stands_on_the_embedding_of_a_baseline_on_the_same_data(text_folder, text_data, tmp_path):
    arms = ["cascade", "cascade@tie_word_embeddings=false", "cascade-random@freeze_embedding=false,num_blocks=1"]
    records = compare(settings(text_folder, arms=arms, epochs=1), text_data, tmp_path).set_index("arm")
    assert sorted(path.parent.name for path in tmp_path.rglob("record.json")) == [
        "cascade-oacd-seed1",
        "cascade-oacd_tie_word_embeddings=false-seed1",
        "cascade-random_freeze_embedding=false_num_blocks=1-seed1",
        "pythia-seed1",
    ]
    # It is the baseline's head that serves, whether it is going to be the head here or not.
    baseline = saved(tmp_path, "pythia").get_output_embeddings().weight
    cascade, untied = saved(tmp_path, "cascade-oacd"), saved(tmp_path, "cascade-oacd_tie_word_embeddings=false")
    assert torch.equal(cascade.get_input_embeddings().weight, baseline)
    assert torch.equal(untied.get_input_embeddings().weight, baseline)
    assert not torch.equal(untied.get_output_embeddings().weight, baseline)
    assert cascade.config.embedding_source == "pythia-seed1"
    trained = saved(tmp_path, "cascade-random_freeze_embedding=false_num_blocks=1")
    distance = (trained.get_input_embeddings().weight - baseline).abs().max()
    assert 0 < distance < 0.2, "it starts from the baseline's too, and learns"
    for arm, record in records.iterrows():
        widths = 40 * (1 if "num_blocks=1" in str(arm) else 2)
        assert record["kv_bytes"] == record["kv_formula_bytes"] == 4 * widths
        assert record["stream_perplexity"] != record["perplexity"]
    history = pd.read_json(tmp_path / "cascade-oacd-seed1" / "history.json", typ="series")["projection"]
    assert {row["block"] for row in history} == {0, 1}


@pytest.mark.parametrize("method", ["dproj-oacd", "context-random@hidden_size=40", "mla"])
def test_a_lent_embedding_is_where_an_arm_begins_and_what_oacd_learns_on(method, text_folder, text_data, tmp_path):
    name, at, overrides = method.partition("@")
    arms = [f"{name}-lent-embedding{ending}{at}{overrides}" for ending in ("-frozen-embedding", "")]
    compare(settings(text_folder, arms=arms, epochs=1), text_data, tmp_path)
    ours = [Arm.parse(arm).folder_name for arm in arms]
    (lender,) = {path.parent.parent.name for path in tmp_path.glob("*/model/config.json")} - {
        f"{a}-seed1" for a in ours
    }
    assert lender == f"pythia{'_hidden_size=40' if at else ''}-seed1"
    # Input rows, as the arm has a head of its own.
    rows = saved(tmp_path, lender.removesuffix("-seed1")).get_input_embeddings().weight
    frozen, learned = (saved(tmp_path, arm) for arm in ours)
    assert torch.equal(frozen.get_input_embeddings().weight, rows)
    distance = (learned.get_input_embeddings().weight - rows).abs().max()
    assert 0 < distance < 0.2, "it starts from the baseline's, and learns"
    if method == "dproj-oacd":
        start = Arm.parse("dproj").build(settings(text_folder), len(text_data.tokenizer), seed=1)
        adopt_embedding(start, read_embedding(str(tmp_path / lender), for_head=False), text_data.tokenizer)
        load_projection(tmp_path / f"{ours[0]}-seed1" / "projection", start, tokenizer_identity(text_data.tokenizer))
        learned_by_oacd = zip(frozen.context_blocks.parameters(), start.context_blocks.parameters(), strict=True)
        assert all(torch.equal(kept, loaded) for kept, loaded in learned_by_oacd)


def test_context_kv_trains_by_the_same_recipe(text_folder, text_data, tmp_path):
    arm = "context-kv@context_dims=[20,12]"
    record = compare(settings(text_folder, arms=[arm], epochs=1, stream_tokens=64), text_data, tmp_path).iloc[0]
    assert record["arm"] == "context-kv-oacd@context_dims=[20,12]"
    # Windows of 16 tokens hold two chunks of 8.
    assert record["kv_bytes"] == record["kv_formula_bytes"] == 4 * 3 * 32
    assert record["stream_perplexity"] != record["perplexity"]
    folder = tmp_path / "context-kv-oacd_context_dims=_20_12_-seed1"
    history = pd.read_json(folder / "history.json", typ="series")["projection"]
    assert {row["block"] for row in history} == {0, 1}
    baseline = AutoModelForCausalLM.from_pretrained(tmp_path / "pythia-seed1" / "model").get_output_embeddings()
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert torch.equal(model.get_output_embeddings().weight, baseline.weight)


def test_a_cascade_may_take_an_embedding_from_elsewhere(finished_comparison, text_folder, text_data, tmp_path):
    _, folder = finished_comparison
    source = str(folder / "narrow-seed1")
    asked = settings(text_folder, arms=["cascade@hidden_size=40"], embedding_source=source, epochs=1)
    compare(asked, text_data, tmp_path)
    cascade, lender = saved(tmp_path, "cascade-oacd_hidden_size=40"), saved(folder, "narrow")
    assert torch.equal(cascade.get_input_embeddings().weight, lender.get_output_embeddings().weight)
    refused = settings(text_folder, arms=["cascade"], embedding_source="random", epochs=1)
    with pytest.raises(ComparisonError, match="must come from a trained model"):
        compare(refused, text_data, tmp_path / "refused")


def test_a_checkpoint_of_another_shape_is_refused_before_a_lender_is_trained(text_folder, text_data, tmp_path):
    compare(settings(text_folder, arms=["dproj"], epochs=1, max_iterations=2), text_data, tmp_path / "first")
    checkpoint = tmp_path / "first" / "dproj-oacd-seed1" / "projection"
    given = settings(text_folder, arms=["context-lent-embedding"], projection_checkpoint=checkpoint)
    with pytest.raises(ProjectionMismatchError, match="context_dims is"):
        compare(given, text_data, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_main_training_begins_with_a_checkpoint_of_its_own_embedding_and_no_other(
    text_folder, text_data, tmp_path, monkeypatch
):
    """The numbers are those of the arm that trained it; another seed has another embedding and is refused at once."""
    own = settings(text_folder, arms=["dproj"], epochs=1, max_iterations=3)
    trained = compare(own, text_data, tmp_path / "first")
    checkpoint = tmp_path / "first" / "dproj-oacd-seed1" / "projection"
    given = own.model_copy(update={"projection_checkpoint": checkpoint})
    with monkeypatch.context() as patch:
        patch.setattr(recipes, "train_projections", lambda *_, **__: pytest.fail("it was trained"))
        begun = compare(given, text_data, tmp_path / "second")
    assert begun["perplexity"].item() == trained["perplexity"].item()
    keys = {arm: [trial_of(arm, one, tmp_path).run().key for one in (own, given)] for arm in ("dproj-oacd", "pythia")}
    assert keys["dproj-oacd"][0] != keys["dproj-oacd"][1]
    assert keys["pythia"][0] == keys["pythia"][1], "what begins with no projection stays what it was"
    other = given.model_copy(update={"arms": ("pythia", "dproj"), "seeds": (2,)})
    with pytest.raises(ProjectionMismatchError, match="embedding is not the one"):
        compare(other, text_data, tmp_path / "other")
    assert not list((tmp_path / "other").glob("pythia*")), "an arm was trained before it was refused"
    for place, arms, said in (
        (tmp_path, ["dproj"], "no complete checkpoint"),
        (checkpoint, ["pythia"], "none of arms"),
    ):
        with pytest.raises(ParameterError, match=said):
            check_before_work(settings(text_folder, arms=arms, projection_checkpoint=place))

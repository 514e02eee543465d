"""Comparisons: what is trained and frozen in each arm, what is recorded, and what happens to killed cells."""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from newllm import experiment, models
from newllm.arms import Arm, ArmError
from newllm.config import MainTraining
from newllm.data import TextData, prepare_data
from newllm.data.facts import FACTS
from newllm.evaluation.causality import Certificate
from newllm.evaluation.perplexity import evaluate
from newllm.experiment import (
    PROMPTS,
    RECIPES,
    Cell,
    ComparisonError,
    Recipe,
    Trained,
    compare,
    expected_seconds,
    summarize_arms,
)
from newllm.models.registry import find

ARMS = ("pythia", "narrow", "dproj-oacd", "dproj-random", "dproj-end-to-end", "dproj-oacd-frozen-embedding")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with some text and a token cache of its own."""
    folder = tmp_path_factory.mktemp("home")
    subjects = ("The river", "A small town", "Our neighbour", "The old teacher", "My sister", "The night train")
    verbs = ("crosses", "remembers", "watches", "follows", "forgets", "describes")
    for number in range(60):
        sentences = [
            f"{subjects[(number * 7 + k) % 6]} {verbs[(number + k * k) % 6]} the road of {number * k}."
            for k in range(12)
        ]
        (folder / f"{number}.txt").write_text(" ".join(sentences))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEWLLM_CACHE", str(folder / "cache"))
        yield folder


def settings(home: Path, **changes: Any) -> MainTraining:
    values: dict[str, Any] = {
        "profile": "test",
        "source": "text",
        "text_files": [str(home / "*.txt")],
        "tokenizer": "bpe:320",
        "size": "tiny",
        "samples": 24,
        "seq_length": 16,
        "val_samples": 6,
        "projection_samples": 20,
        "max_iterations": 6,
        "stream_max_iterations": 4,
        "epochs": 2,
        "lr": 1e-3,
        "arms": ARMS,
        "seeds": [1],
        "device": "cpu",
    }
    return MainTraining(**values | changes)


@pytest.fixture(scope="module")
def data(home):
    return prepare_data(settings(home))


@pytest.fixture(scope="module")
def finished(home, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return compare(settings(home), data, folder).set_index("arm"), folder


def saved(folder: Path, arm: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / f"{arm}-seed1" / "model")


def moved(model: torch.nn.Module, start: torch.nn.Module) -> set[str]:
    """Parts of the model whose weights training has changed."""
    before = start.state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    parts = ("embed_in", "embed_norm", "context_blocks", "layers", "final_layer_norm", "embed_out")
    assert all(any(part in name for part in parts) for name in before)
    return {part for part in parts if any(part in name for name in changed)}


def test_each_arm_trains_what_it_says(finished, home, data):
    _, folder = finished
    always = {"layers", "final_layer_norm", "embed_out"}
    expected = {
        "pythia": always | {"embed_in"},
        "dproj-oacd": always | {"embed_in", "context_blocks"},
        "dproj-random": always | {"embed_in"},
        "dproj-end-to-end": always | {"embed_in", "embed_norm", "context_blocks"},
        "dproj-oacd-frozen-embedding": always | {"context_blocks"},
    }
    for arm, parts in expected.items():
        start = Arm.parse(arm).build(settings(home), len(data.tokenizer), seed=1)
        assert moved(saved(folder, arm), start) == parts, arm
    # OACD alone has changed the recurrence: main training of another arm, from the same start, has left it there.
    ours, theirs = (saved(folder, arm).context_blocks for arm in ("dproj-oacd", "dproj-oacd-frozen-embedding"))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_the_records_say_what_was_measured(finished, home, data):
    records, folder = finished
    assert list(records.index) == list(ARMS)
    for arm, record in records.iterrows():
        report = evaluate(saved(folder, str(arm)), data.validation)
        assert record["perplexity"] == pytest.approx(report.perplexity, rel=1e-6), "the best weights are the saved ones"
        assert record["bits_per_byte"] == pytest.approx(report.bits_per_byte, rel=1e-6)
        assert record["accuracy"] == report.accuracy
        assert record["kv_bytes"] == record["kv_formula_bytes"]
        assert record["decoded_tokens_per_second"] > 0
        assert math.isnan(record["convergence_rate"]) == ("oacd" not in str(arm))
        assert math.isnan(record["effective_rank"]) == ("dproj" not in str(arm))
        kept = pd.read_json(folder / f"{arm}-seed1" / "evaluation.json", typ="series")
        np.testing.assert_allclose(kept["window_losses"], report.window_losses, rtol=1e-6)
        assert kept["certificate"]["passed"]
    assert records["kv_bytes_per_token"]["dproj-oacd"] == records["kv_bytes_per_token"]["narrow"]
    assert records["kv_bytes_per_token"]["dproj-oacd"] < records["kv_bytes_per_token"]["pythia"]
    record = experiment.Cell(Arm.parse("narrow"), 1, settings(home), folder, data.fingerprint).run().record()
    assert [continuation.prompt for continuation in record.continuations] == list(PROMPTS)
    assert all(continuation.text for continuation in record.continuations)
    assert len(AutoTokenizer.from_pretrained(folder / "narrow-seed1" / "model")) == len(data.tokenizer)


def test_equal_cells_of_another_notebook_are_taken_over(finished, home, data, tmp_path, monkeypatch):
    records, folder = finished
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(folder.parent))
    monkeypatch.setattr(experiment, "run_cell", lambda *_: pytest.fail("a finished cell was run again"))
    elsewhere = compare(settings(home, arms=("narrow",)), data, tmp_path)
    assert elsewhere["perplexity"].item() == records["perplexity"]["narrow"]
    assert list(tmp_path.iterdir()) == [tmp_path / "narrow-seed1"]
    torch.testing.assert_close(
        experiment.load_trained(tmp_path / "narrow-seed1").state_dict(), saved(folder, "narrow").state_dict()
    )


def test_settings_that_do_not_reach_an_arm_do_not_make_it_another_cell(home, data):
    def identity(arm, **changes):
        return experiment.Cell(Arm.parse(arm), 1, settings(home, **changes), home, data.fingerprint).run().identity

    for arm in ("pythia", "dproj-random", "cascade-random"):
        assert identity(arm) == identity(arm, max_iterations=7), arm
    for arm in ("dproj-oacd", "cascade"):
        assert identity(arm) != identity(arm, max_iterations=7), arm
    for arm in ("pythia", "dproj-oacd"):
        assert identity(arm) == identity(arm, stream_lr=0.5), arm
    for arm in ("cascade", "cascade-random", "context-kv"):
        assert identity(arm) != identity(arm, stream_lr=0.5), arm
    assert identity("pythia") == identity("pythia", pretrained="somewhere", processes=2)
    assert identity("pythia") != identity("pythia", lr=0.5)


@pytest.mark.parametrize("change", [{"lr": 2e-3}, {"seeds": [2]}, {"rerun": True}])
def test_what_differs_is_not_taken_over(finished, home, data, tmp_path, monkeypatch, change):
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(finished[1].parent))
    monkeypatch.setattr(experiment, "run_cell", lambda *_: pytest.fail("run again"))
    with pytest.raises((pytest.fail.Exception, ComparisonError), match="run again"):
        compare(settings(home, arms=("narrow",), **change), data, tmp_path)


def test_windows_with_facts_among_them_are_another_cell(finished, home, tmp_path, monkeypatch):
    folder = finished[1]
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(folder.parent))
    with_facts = prepare_data(settings(home), facts=FACTS[:2])
    cell = experiment.Cell(Arm.parse("narrow"), 1, settings(home), tmp_path, with_facts.fingerprint)
    assert not cell.run().take_over(folder.parent)


def test_finished_cells_are_not_run_again(finished, home, data, monkeypatch):
    records, folder = finished
    trained: list[str] = []
    real = experiment.run_cell

    def note(cell: experiment.Cell, text: TextData) -> Any:
        trained.append(cell.arm.name)
        return real(cell, text)

    monkeypatch.setattr(experiment, "run_cell", note)
    again = compare(settings(home), data, folder).set_index("arm")
    assert trained == []
    pd.testing.assert_frame_equal(again, records)
    more = compare(settings(home, arms=["mqa", "dproj-random"]), data, folder)
    assert trained == ["mqa"]
    assert list(more["arm"]) == ["mqa", "dproj-random"]


def test_a_failed_cell_stops_no_other_and_goes_on_where_it_stopped(finished, home, data, tmp_path, monkeypatch):
    records, _ = finished
    arms = ("dproj-oacd", "pythia")
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "train", _fails_for("newllm-dproj", experiment.train))
        with pytest.raises(ComparisonError, match=r"1 of 2 cells failed.*dproj-oacd with seed 1: OSError: disk full"):
            compare(settings(home, arms=arms), data, tmp_path)
    monkeypatch.setattr(experiment, "train_projections", _fails_for("newllm-dproj", None))
    resumed = compare(settings(home, arms=arms), data, tmp_path).set_index("arm")
    for arm in arms:
        assert resumed.loc[arm, "perplexity"] == records.loc[arm, "perplexity"]
    assert resumed.loc["dproj-oacd", "convergence_rate"] == records.loc["dproj-oacd", "convergence_rate"]


def _fails_for(model_type: str, otherwise: Any) -> Any:
    def call(model: Any, *arguments: Any, **named: Any) -> Any:
        if model.config.model_type == model_type:
            raise OSError("disk full")
        return otherwise(model, *arguments, **named)

    return call


def test_nothing_is_recorded_without_a_certificate(home, data, tmp_path, monkeypatch):
    failed = Certificate(passed=False, max_change=1.0, checks=[])
    monkeypatch.setattr(experiment, "certify", lambda model: failed)
    monkeypatch.setattr(Certificate, "failures", lambda self: ["later tokens: seen"])
    with pytest.raises(ComparisonError, match="pythia did not pass the causality certificate: later tokens: seen"):
        compare(settings(home, arms=["pythia"], epochs=1), data, tmp_path)
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize("arm", ["pythai", "dproj@proj_dim=0", "pythia@kv_dim=3"])
def test_an_impossible_arm_stops_before_anything_runs(home, data, tmp_path, arm):
    with pytest.raises(ArmError):
        compare(settings(home, arms=["pythia", arm]), data, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_processes_change_nothing_but_the_time(finished, home, data, tmp_path):
    records, _ = finished
    arms = ("dproj-oacd", "pythia")
    parallel = compare(settings(home, arms=arms, processes=2), data, tmp_path).set_index("arm")
    for arm in arms:
        assert parallel.loc[arm, "perplexity"] == pytest.approx(records.loc[arm, "perplexity"], rel=1e-4)


def test_a_model_brings_its_own_way_of_training_by_name(home, data, tmp_path, monkeypatch):
    asked: list[tuple[str, int]] = []

    def recipe(cell: experiment.Cell, model: Any, text: TextData, folder: Path, device: torch.device) -> Trained:
        asked.append((cell.arm.name, cell.seed))
        return RECIPES["windows"].train(cell, model, text, folder, device)

    monkeypatch.setitem(RECIPES, "run-on", Recipe(recipe, RECIPES["windows"].estimate))
    monkeypatch.setattr(find("mqa").model_class, "training_recipe", "run-on")
    compare(settings(home, arms=["mqa", "unified"], epochs=1), data, tmp_path)
    assert asked == [("mqa", 1)]


def test_what_takes_time_is_estimated_as_it_is_trained(home, data, tmp_path, monkeypatch):
    """By the model's own recipe, and with what the arm freezes frozen."""
    arms = ["dproj-oacd", "dproj-end-to-end-frozen-embedding", "cascade", "cascade-end-to-end@freeze_embedding=false"]
    asked: dict[str, tuple[bool, bool]] = {}

    def estimate(name: str, model: Any, *given: Any, **settings: Any) -> float:
        (blocks,), (embedding,) = (
            {parameter.requires_grad for parameter in part.parameters()}
            for part in (model.context_blocks, model.get_input_embeddings())
        )
        asked[f"{len(asked)} {name}"] = (blocks, embedding)
        return 1.0

    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, Recipe(recipe.train, functools.partial(estimate, name)))
    parameters = settings(home, arms=arms)
    cells = [Cell(Arm.parse(arm), 1, parameters, tmp_path, "some data") for arm in arms]
    assert expected_seconds([*cells, cells[0]], data) == dict.fromkeys(cells, 1.0)
    assert asked == {
        "0 windows": (False, True),
        "1 windows": (True, False),
        "2 contexts": (False, False),
        "3 contexts": (True, True),
    }


def test_every_model_has_a_recipe():
    assert {find(name).model_class.training_recipe for name in models.names()} <= set(RECIPES)


def test_a_cascade_stands_on_the_embedding_of_a_baseline_on_the_same_data(home, data, tmp_path):
    arms = ["cascade", "cascade@tie_word_embeddings=false", "cascade-random@freeze_embedding=false,num_blocks=1"]
    records = compare(settings(home, arms=arms, epochs=1), data, tmp_path).set_index("arm")
    assert sorted(path.parent.name for path in tmp_path.rglob("record.json")) == [
        "cascade-oacd-seed1",
        "cascade-oacd_tie_word_embeddings=False-seed1",
        "cascade-random_freeze_embedding=False_num_blocks=1-seed1",
        "pythia-seed1",
    ]
    # It is the baseline's head that serves, whether it is going to be the head here or not.
    baseline = saved(tmp_path, "pythia").get_output_embeddings().weight
    cascade, untied = saved(tmp_path, "cascade-oacd"), saved(tmp_path, "cascade-oacd_tie_word_embeddings=False")
    assert torch.equal(cascade.get_input_embeddings().weight, baseline)
    assert torch.equal(untied.get_input_embeddings().weight, baseline)
    assert not torch.equal(untied.get_output_embeddings().weight, baseline)
    assert cascade.config.embedding_source == "pythia-seed1"
    trained = saved(tmp_path, "cascade-random_freeze_embedding=False_num_blocks=1")
    distance = (trained.get_input_embeddings().weight - baseline).abs().max()
    assert 0 < distance < 0.2, "it starts from the baseline's too, and learns"
    for arm, record in records.iterrows():
        widths = 40 * (1 if "num_blocks=1" in str(arm) else 2)
        assert record["kv_bytes"] == record["kv_formula_bytes"] == 4 * widths
        assert record["run_on_perplexity"] != record["perplexity"]
    history = pd.read_json(tmp_path / "cascade-oacd-seed1" / "history.json", typ="series")["projection"]
    assert {row["block"] for row in history} == {0, 1}


def test_context_kv_trains_by_the_same_recipe(home, data, tmp_path):
    arm = "context-kv@context_dims=[20,12]"
    record = compare(settings(home, arms=[arm], epochs=1, stream_tokens=64), data, tmp_path).iloc[0]
    assert record["arm"] == "context-kv-oacd@context_dims=[20,12]"
    # Windows of 16 tokens hold two chunks of 8.
    assert record["kv_bytes"] == record["kv_formula_bytes"] == 4 * 3 * 32
    assert record["run_on_perplexity"] != record["perplexity"]
    folder = tmp_path / "context-kv-oacd_context_dims=_20_12_-seed1"
    history = pd.read_json(folder / "history.json", typ="series")["projection"]
    assert {row["block"] for row in history} == {0, 1}
    baseline = AutoModelForCausalLM.from_pretrained(tmp_path / "pythia-seed1" / "model").get_output_embeddings()
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert torch.equal(model.get_output_embeddings().weight, baseline.weight)


def test_a_cascade_may_take_an_embedding_from_elsewhere(finished, home, data, tmp_path):
    _, folder = finished
    source = str(folder / "narrow-seed1")
    asked = settings(home, arms=["cascade@hidden_size=40"], embedding_source=source, epochs=1)
    compare(asked, data, tmp_path)
    cascade, lender = saved(tmp_path, "cascade-oacd_hidden_size=40"), saved(folder, "narrow")
    assert torch.equal(cascade.get_input_embeddings().weight, lender.get_output_embeddings().weight)
    refused = settings(home, arms=["cascade"], embedding_source="random", epochs=1)
    with pytest.raises(ComparisonError, match="must come from a trained model"):
        compare(refused, data, tmp_path / "refused")


def test_a_baseline_as_wide_as_the_cascade_lends_its_embedding(home):
    for arm, expected in [("cascade", "pythia"), ("cascade@hidden_size=128", "pythia@hidden_size=128")]:
        lender = experiment.embedding_cell(experiment.Cell(Arm.parse(arm), 1, settings(home), Path("runs"), "digest"))
        assert lender is not None and lender.arm == Arm.parse(expected)
    assert (
        experiment.embedding_cell(experiment.Cell(Arm.parse("dproj"), 1, settings(home), Path("runs"), "digest"))
        is None
    )


def test_differences_are_paired_over_windows_and_seeds(tmp_path):
    rows = []
    windows = np.array([2.0, 6.0, 4.0, 8.0])
    for arm, shift in {"base": 0.0, "better": -0.5}.items():
        for seed in (0, 1, 2):
            folder = tmp_path / f"{arm}{seed}"
            folder.mkdir()
            pd.Series({"window_losses": (windows + shift + 0.1 * seed).tolist()}).to_json(folder / "evaluation.json")
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "parameter_count": 10,
                    "kv_bytes_per_token": 4.0,
                    "kv_bytes": 64,
                    "perplexity": 100 + shift + seed,
                    "folder": folder,
                }
            )
    table = summarize_arms(pd.DataFrame(rows), baseline="base").set_index("arm")
    assert list(table.index) == ["better", "base"]
    better = table.loc["better"]
    # Windows differ by 6 nats and seeds by 0.2; paired, nothing is left but the shift.
    for end in ("", "_low", "_high", "_over_seeds_low", "_over_seeds_high"):
        assert better[f"difference{end}"] == pytest.approx(-0.5)
    assert better["perplexity_low"] < better["perplexity"] == 100.5 < better["perplexity_high"]
    assert math.isnan(table.loc["base", "difference"])


def test_pretrained_weights_are_a_row_on_the_same_windows(finished, home, data, tmp_path):
    row, folder = finished[0].loc["pythia"], finished[1]
    weights = str(folder / "pythia-seed1" / "model")
    results = compare(settings(home, arms=["pythia"], pretrained=weights), data, tmp_path).set_index("arm")
    assert list(results.index) == ["pythia", "pretrained"]
    assert results.perplexity["pretrained"] == pytest.approx(row.perplexity, rel=1e-6)
    assert np.isnan(results.epochs["pretrained"])


def test_pretrained_weights_of_another_tokenizer_are_refused(finished, home, tmp_path):
    other = settings(home, arms=["pythia"], tokenizer="bpe:310", pretrained=str(finished[1] / "pythia-seed1" / "model"))
    with pytest.raises(ValueError, match="whose tokenizer is not 'bpe:310'"):
        experiment.score_pretrained(other, prepare_data(other), tmp_path)


def test_pretrained_weights_that_cannot_be_read_say_so(home, data, tmp_path):
    with pytest.raises(ValueError, match="leave it out to work offline"):
        experiment.score_pretrained(settings(home, pretrained=str(tmp_path / "nowhere")), data, tmp_path)

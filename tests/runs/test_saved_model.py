"""Trained models are found by where they are, loaded as data, and refused in one sentence otherwise."""

import json
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from newllm.data import hub
from newllm.data.hub import HubUnavailableError
from newllm.data.tokenizers import load_tokenizer
from newllm.models import create
from newllm.runs.saved_model import LoadingError, find_saved_model, load_trained_model
from tests.evaluation import toys

IDS = torch.arange(24)[None]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEWLLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_tokenizer("bpe:258", lambda: [""], "nothing")


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


def save(folder: Path, tokenizer: PreTrainedTokenizerFast | None, name: str = "pythia"):
    torch.manual_seed(0)
    model = create(name, "tiny").eval()
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return model


def test_a_trial_is_found_by_path_by_name_and_by_its_model(outputs: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    trial = outputs / "02_main_training" / "cpu-1" / "mla-seed0"
    saved = save(trial / "model", tokenizer, "mla")
    by_name = "02_main_training/cpu-1/mla-seed0"
    for where in (trial, str(trial), by_name, f"outputs/{by_name}/model"):
        assert find_saved_model(where).resolve() == trial / "model"
    loaded = load_trained_model(by_name)
    assert loaded.method == "mla"
    assert not loaded.model.training
    assert torch.equal(loaded.model(IDS).logits, saved(IDS).logits)
    assert loaded.tokenizer.encode("Hello") == tokenizer.encode("Hello")
    with pytest.raises(LoadingError, match="give one of its trials: mla-seed0"):
        find_saved_model(trial.parent)


def test_the_weights_of_a_pythia_go_into_models_that_take_them_all(
    outputs: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    saved = save(outputs / "trial", tokenizer)
    loaded = load_trained_model("trial", method="ka")
    assert loaded.method == "ka"
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(loaded.model.state_dict().values(), saved.state_dict().values(), strict=True)
    )
    assert not torch.allclose(loaded.model(IDS).logits, saved(IDS).logits)
    for method, message in (
        ("mla", "cannot be loaded as mla"),
        ("vdproj", "mismatched"),
        ("kaa", "did you mean 'ka'"),
    ):
        with pytest.raises(LoadingError, match=message):
            load_trained_model("trial", method=method)


def published(folder: Path, tokenizer: PreTrainedTokenizerFast) -> GPTNeoXForCausalLM:
    model = toys.gpt_neox()
    model.resize_token_embeddings(320)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.float()


def test_a_published_pythia_is_fetched_without_pickles(
    outputs: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = published(tmp_path / "hub", tokenizer)
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path / "hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded = load_trained_model("EleutherAI/pythia-70m")
    assert asked == [("EleutherAI/pythia-70m", ["*.json", "*.safetensors"])]
    assert (loaded.method, loaded.model.dtype) == ("pythia", torch.float32)
    assert torch.allclose(loaded.model(IDS).logits, stock(IDS).logits, atol=1e-5)


def test_a_silent_hub_is_one_clear_error(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*given: object, **settings: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", silent)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    with pytest.raises(HubUnavailableError, match=r"the model EleutherAI/pythia-70m in 5 tries"):
        find_saved_model("EleutherAI/pythia-70m")


def test_a_wrong_path_is_not_asked_of_the_hub(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *given, **settings: pytest.fail("asked"))
    (outputs / "02_main_training").mkdir(parents=True)
    (outputs.parent / "here").mkdir()
    for where in ("outputs/x", "02_main_training/x", "02_main_training/x/y", "./x", "/x", "~/x", "here/x", "a/b/c", ""):
        with pytest.raises(LoadingError, match=r"no folder|holds no model"):
            find_saved_model(where)
    with pytest.raises(LoadingError, match="holds no model: give the folder of a finished trial"):
        find_saved_model("here")


def test_what_is_not_whole_is_refused(outputs: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save(outputs / "bare", None)
    with pytest.raises(LoadingError, match=r"bare holds no tokenizer\.json"):
        load_trained_model("bare")
    save(outputs / "pickled", tokenizer)
    (outputs / "pickled" / "model.safetensors").rename(outputs / "pickled" / "pytorch_model.bin")
    with pytest.raises(LoadingError, match=r"pickled holds no model\.safetensors"):
        load_trained_model("pickled")
    save(outputs / "cut", tokenizer)
    (outputs / "cut" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(LoadingError, match="cut cannot be loaded as pythia"):
        load_trained_model("cut")
    save(outputs / "other", tokenizer)
    config = json.loads((outputs / "other" / "config.json").read_text())
    (outputs / "other" / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(LoadingError, match="of the type 'gpt2'"):
        load_trained_model("other")


def test_a_tokenizer_of_another_model_is_refused(
    outputs: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    toys.gpt_neox().save_pretrained(outputs / "trial")
    tokenizer.save_pretrained(outputs / "trial")
    with pytest.raises(LoadingError, match="a tokenizer of 258 tokens, but its model knows 61"):
        load_trained_model("trial")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", "64", "config.json cannot be read"),
        ("dtype", "bogus", "config.json cannot be read"),
        ("is_encoder_decoder", True, "is_encoder_decoder=True is not supported"),
        ("rotary_pct", 0.25, "position='alibi' and rotary_pct say different things"),
    ],
)
def test_a_wrong_configuration_is_not_blamed_on_the_tokenizer(
    outputs: Path, tokenizer: PreTrainedTokenizerFast, field: str, value: object, message: str
) -> None:
    save(outputs / "trial", tokenizer)
    path = outputs / "trial" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "position": "alibi", field: value}))
    with pytest.raises(LoadingError, match=message) as caught:
        load_trained_model("trial")
    assert "no tokenizer" not in str(caught.value)


def test_a_loaded_model_names_its_outputs(outputs: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    saved = save(outputs / "trial", tokenizer)
    path = outputs / "trial" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "return_dict": False}))
    assert torch.equal(load_trained_model("trial").model(IDS).logits, saved(IDS).logits)

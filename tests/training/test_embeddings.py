"""Embeddings from a run, a folder, a file and the hub: the right rows, or a sentence that says what is wrong."""

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from newllm.data.hub import HubUnavailableError
from newllm.data.tokenizers import tokenizer_identity
from newllm.models import create
from newllm.models.language_model import LanguageModel
from newllm.runs.folder import Run
from newllm.training import embeddings
from newllm.training.embeddings import (
    EmbeddingError,
    adopt_embedding,
    local_embedding,
    read_embedding,
    refuse_unknowing_embedding,
)


def byte_tokenizer(first: int = 0) -> PreTrainedTokenizerFast:
    """One token a byte and end-of-text; another ``first`` gives the same vocabulary in another order."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ordered = [*alphabet[first:], *alphabet[:first]]
    backend = Tokenizer(BPE({text: number for number, text in enumerate([*ordered, "<|endoftext|>"])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


TOKENIZER = byte_tokenizer()
VOCABULARY = 257


def model(name: str = "cascade", seed: int = 0, **overrides) -> LanguageModel:
    torch.manual_seed(seed)
    return create(name, "tiny", vocab_size=VOCABULARY, **overrides)


def weight_of(anything: LanguageModel) -> torch.Tensor:
    weight = anything.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach()


def finished_run(folder: Path, tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> LanguageModel:
    """What an experiment leaves of a baseline."""
    trained = model("pythia", seed=1)
    run = Run(folder, {})
    run.start()
    trained.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    run.finish(1.0)
    return trained


@pytest.mark.parametrize("tied", [True, False])
def test_the_embedding_of_a_finished_run_is_taken_over(tmp_path, tied):
    trained = finished_run(tmp_path / "run")
    taker = model(tie_word_embeddings=tied)
    adopt_embedding(taker, read_embedding(str(tmp_path / "run"), for_head=tied), TOKENIZER)
    lent = trained.get_output_embeddings().weight if tied else weight_of(trained)
    assert torch.equal(weight_of(taker), lent)
    assert torch.equal(taker.get_output_embeddings().weight, lent) == tied
    taker.save_pretrained(tmp_path / "saved")
    loaded = type(taker).from_pretrained(tmp_path / "saved")
    loaded.requires_grad_(False)
    refuse_unknowing_embedding(loaded)


def test_an_unfinished_run_is_refused(tmp_path):
    finished_run(tmp_path / "run")
    Run(tmp_path / "run", {}).start()
    with pytest.raises(EmbeddingError, match="not finished"):
        read_embedding(str(tmp_path / "run"), for_head=False)


def test_a_run_with_another_tokenizer_is_refused_though_the_shape_fits(tmp_path):
    finished_run(tmp_path / "run", byte_tokenizer(first=1))
    with pytest.raises(EmbeddingError, match="another tokenizer"):
        adopt_embedding(model(), read_embedding(str(tmp_path / "run"), for_head=False), TOKENIZER)


@pytest.mark.parametrize("name", ["pythia", "dproj", "cascade"])
def test_a_saved_model_tells_its_tokenizer(tmp_path, name):
    saved = model(name, seed=1)
    saved.save_pretrained(tmp_path)
    assert read_embedding(str(tmp_path), for_head=False).tokenizer_identity is None
    TOKENIZER.save_pretrained(tmp_path)
    read = read_embedding(str(tmp_path), for_head=False)
    assert torch.equal(read.weight, weight_of(saved))
    assert read.tokenizer_identity == tokenizer_identity(TOKENIZER)


def test_a_tied_model_lends_its_one_embedding_as_a_head_too(tmp_path):
    saved = model("cascade", seed=1)
    saved.save_pretrained(tmp_path)
    assert torch.equal(read_embedding(str(tmp_path), for_head=True).weight, weight_of(saved))


def test_a_file_is_read_with_a_warning_that_its_tokenizer_is_unknown(tmp_path, caplog):
    weight = torch.randn(VOCABULARY, 64)
    save_file({"anything": weight.bfloat16(), "bias": torch.zeros(3)}, tmp_path / "e.safetensors")
    taker = model()
    adopt_embedding(taker, read_embedding(str(tmp_path / "e.safetensors"), for_head=False), TOKENIZER)
    assert torch.equal(weight_of(taker), weight.bfloat16().float())
    assert "only their number is checked" in caplog.text


def test_padding_of_the_vocabulary_becomes_the_mean_row(tmp_path):
    weight = torch.randn(VOCABULARY, 64)
    save_file({"wte.weight": weight}, tmp_path / "e.safetensors")
    taker = create("cascade", "tiny", vocab_size=VOCABULARY + 3)
    adopt_embedding(taker, read_embedding(str(tmp_path / "e.safetensors"), for_head=False), TOKENIZER)
    assert torch.equal(weight_of(taker)[:VOCABULARY], weight)
    assert torch.equal(weight_of(taker)[VOCABULARY:], weight.mean(0).expand(3, -1))


@pytest.mark.parametrize("shape", [(VOCABULARY, 32), (VOCABULARY + 1, 64), (VOCABULARY - 1, 64)])
def test_another_shape_is_refused_with_the_settings_that_fit(tmp_path, shape):
    save_file({"wte.weight": torch.zeros(shape)}, tmp_path / "e.safetensors")
    embedding = read_embedding(str(tmp_path / "e.safetensors"), for_head=False)
    with pytest.raises(EmbeddingError, match=f"build the model with vocab_size={shape[0]}, hidden_size={shape[1]}"):
        adopt_embedding(model(), embedding, TOKENIZER)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a.weight": (4, 2), "b.weight": (4, 2)}, "0 input embeddings .* 2 matrices"),
        ({"a.wte.weight": (4, 2), "b.wte.weight": (4, 2)}, "2 input embeddings"),
        ({"wte.weight": (4,), "bias": (4,)}, "0 matrices"),
    ],
)
def test_weights_without_one_embedding_are_refused(tmp_path, tensors, reason):
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "e.safetensors")
    with pytest.raises(EmbeddingError, match=reason):
        read_embedding(str(tmp_path / "e.safetensors"), for_head=False)


def test_a_damaged_tokenizer_beside_the_weights_is_refused_in_one_sentence(tmp_path):
    save_file({"embed_in.weight": torch.zeros(4, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    for look in (lambda: local_embedding(str(tmp_path)), lambda: read_embedding(str(tmp_path), for_head=False)):
        with pytest.raises(EmbeddingError, match=r"tokenizer\.json cannot be read"):
            look()


def test_what_is_no_weights_at_all_is_refused(tmp_path):
    (tmp_path / "e.safetensors").write_text("no")
    with pytest.raises(EmbeddingError, match="not a safetensors file"):
        read_embedding(str(tmp_path / "e.safetensors"), for_head=False)
    with pytest.raises(EmbeddingError, match=r"holds no model\.safetensors"):
        read_embedding(str(tmp_path), for_head=False)
    for missing in ("missing.safetensors", "./missing", str(tmp_path / "missing"), "outputs/run/arm"):
        with pytest.raises(EmbeddingError, match="no such file or folder"):
            read_embedding(missing, for_head=False)


def test_only_an_embedding_that_knows_nothing_is_refused(tmp_path):
    for frozen, tied, refused in [(True, True, True), (True, False, False), (False, True, False)]:
        taker = model(tie_word_embeddings=tied)
        taker.get_input_embeddings().requires_grad_(not frozen)
        if refused:
            with pytest.raises(EmbeddingError, match="must come from a trained model"):
                refuse_unknowing_embedding(taker)
        else:
            refuse_unknowing_embedding(taker)
    finished_run(tmp_path / "run")
    adopted = model()
    adopt_embedding(adopted, read_embedding(str(tmp_path / "run"), for_head=False), TOKENIZER)
    adopted.requires_grad_(False)
    refuse_unknowing_embedding(adopted)
    weight_of(adopted)[3] += 1
    with pytest.raises(EmbeddingError, match="must come from a trained model"):
        refuse_unknowing_embedding(adopted)


class FakeHub:
    """Stands where the network is: gives the files of one model, or does not answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers = True

    def download(self, repository: str, name: str) -> str:
        if not self.answers or repository != "someone/model":
            raise ConnectionError("no route to host")
        return str(self.folder / name)

    def tokenizer(self, repository: str) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast.from_pretrained(Path(self.download(repository, "tokenizer.json")).parent)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "served")
    monkeypatch.setattr(embeddings, "hf_hub_download", fake.download)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fake.tokenizer)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return fake


def test_the_embedding_of_a_hub_model_comes_with_its_tokenizers_identity(hub):
    served = model("pythia", seed=1)
    served.save_pretrained(hub.folder)
    TOKENIZER.save_pretrained(hub.folder)
    read = read_embedding("someone/model", for_head=False)
    assert torch.equal(read.weight, weight_of(served))
    assert torch.equal(read_embedding("someone/model", for_head=True).weight, served.get_output_embeddings().weight)
    assert read.tokenizer_identity == tokenizer_identity(TOKENIZER)


def test_a_silent_hub_is_one_error_that_names_the_offline_choice(hub):
    hub.answers = False
    with pytest.raises(HubUnavailableError, match="embedding_source: the folder of a finished run"):
        read_embedding("someone/model", for_head=False)

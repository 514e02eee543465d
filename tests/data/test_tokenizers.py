"""Tokenizers: lossless, deterministic, trained on the training documents, and honest about bytes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from newllm.config.groups import DataParameters
from newllm.data import prepare_data
from newllm.data.hub import HubUnavailableError
from newllm.data.tokenizers import bytes_per_token, encode_documents, load_tokenizer, tokenizer_identity
from tests.data.conftest import FakeHub


@pytest.fixture(scope="module")
def tokenizer(paragraphs: list[str], tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEWLLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_tokenizer("bpe:400", lambda: paragraphs, "paragraphs")


def test_special_tokens_stand_as_in_pythia(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 400
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|padding|>"]) == [0, 1]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)


@given(texts=st.lists(st.text(), min_size=1, max_size=4))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_and_its_bytes_are_counted(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    table = bytes_per_token(tokenizer)
    for text, ids in zip(texts, encode_documents(tokenizer, texts), strict=True):
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]) == text
        assert table[ids].sum() == len(text.encode())


def test_end_of_text_spelled_out_in_a_document_ends_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    (ids,) = encode_documents(tokenizer, ["before <|endoftext|> after"])
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids[:-1]) == "before <|endoftext|> after"


def test_training_is_deterministic_and_cached(paragraphs: list[str], cache: Path) -> None:
    first = tokenizer_identity(load_tokenizer("bpe:350", lambda: paragraphs, "paragraphs"))
    (file,) = (cache / "tokenizers").iterdir()
    assert tokenizer_identity(load_tokenizer("bpe:350", pytest.fail, "paragraphs")) == first
    file.write_text("{")
    assert tokenizer_identity(load_tokenizer("bpe:350", lambda: paragraphs, "paragraphs")) == first
    file.unlink()
    assert tokenizer_identity(load_tokenizer("bpe:350", lambda: paragraphs, "paragraphs")) == first
    assert tokenizer_identity(load_tokenizer("bpe:351", lambda: paragraphs, "paragraphs")) != first
    assert tokenizer_identity(load_tokenizer("bpe:350", lambda: paragraphs[:9], "fewer")) != first


def test_only_training_documents_are_seen(
    text_parameters: Callable[..., DataParameters], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    train = Tokenizer.train_from_iterator

    def spy(tokenizer, documents, trainer):
        seen.extend(documents)
        train(tokenizer, seen, trainer)

    monkeypatch.setattr(Tokenizer, "train_from_iterator", spy)
    data = prepare_data(text_parameters())
    assert seen
    validation = str(data.tokenizer.decode(data.validation.token_ids)).split("<|endoftext|>")
    assert not set(validation) & set(seen)
    assert str(data.tokenizer.decode(data.train.token_ids)).split("<|endoftext|>")[0] in seen


def test_identity_is_that_of_the_ids_not_of_the_last_call(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    identity = tokenizer_identity(tokenizer)
    tokenizer(["a", "a longer text"], padding=True, truncation=True, max_length=2)
    assert tokenizer_identity(tokenizer) == identity
    (ids,) = encode_documents(tokenizer, ["a longer text than two tokens"])
    assert len(ids) > 3
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_identity(load_tokenizer(str(tmp_path), pytest.fail, "")) == identity


def test_a_local_file(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(str(tmp_path / "tokenizer.json"), pytest.fail, "")
    assert tokenizer_identity(loaded) == tokenizer_identity(tokenizer)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_tokenizer(str(tmp_path / "nothing.json"), pytest.fail, "")


@pytest.mark.parametrize("name", ["bpe:257", "bpe:0", "bpe:-1", "bpe:many", "bpe:"])
def test_impossible_sizes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="whole number of at least 258"):
        load_tokenizer(name, pytest.fail, "")


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [({"hello": 0}, "no <|endoftext|> token"), ({"<|endoftext|>": 0, "▁hello": 1}, "not byte-level")],
)
def test_unsuitable_tokenizers_are_refused(tmp_path: Path, vocabulary: dict[str, int], message: str) -> None:
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="hello"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([token for token in vocabulary if token.startswith("<|")])
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        load_tokenizer(str(tmp_path / "tokenizer.json"), pytest.fail, "")


def test_a_hub_tokenizer_fails_with_one_clear_error(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> None:
        raise OSError("couldn't connect")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(HubUnavailableError, match=r"the tokenizer gpt2 in 5 tries.*bpe:4096"):
        load_tokenizer("gpt2", pytest.fail, "")
    assert len(fake_hub.waits) == 4

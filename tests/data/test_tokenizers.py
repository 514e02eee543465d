"""Tokenizers: lossless, deterministic, trained on the training documents, and honest about bytes."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from newllm.config.groups import DataParameters
from newllm.data import pieces, prepare_data
from newllm.data.hub import HubUnavailableError
from newllm.data.pieces import LONGEST_PIECE, cut_into_pieces
from newllm.data.tokenizers import (
    bytes_per_token,
    encode_documents,
    encode_text,
    load_tokenizer,
    tokenizer_identity,
)
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
    assert ids.tolist().count(tokenizer.eos_token_id) == 1
    assert encode_text(tokenizer, "before <|endoftext|> after") == ids[:-1].tolist()
    assert tokenizer.decode(ids[:-1]) == "before <|endoftext|> after"


def test_training_is_deterministic_and_cached(paragraphs: list[str], cache: Path) -> None:
    first = tokenizer_identity(load_tokenizer("bpe:350", lambda: paragraphs, "paragraphs"))
    (file,) = (cache / "tokenizers").glob("*.json")
    assert tokenizer_identity(load_tokenizer("bpe:350", pytest.fail, "paragraphs")) == first
    file.write_text(file.read_text().replace("0", "1", 1))
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


def test_a_tokenizer_without_end_of_text_says_how_to_name_its_own(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    text = tokenizer.backend_tokenizer.to_str()
    file.write_text(text.replace("<|endoftext|>", "</s>"))
    with pytest.raises(ValueError, match=r"mine\.json has no token <\|endoftext\|>.*as eos_token in .*_config\.json"):
        load_tokenizer(str(file), pytest.fail, "")
    for eos_token in ("</s>", {"content": "</s>"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos_token}))
        loaded = load_tokenizer(str(file), pytest.fail, "")
        assert (loaded.eos_token, loaded.eos_token_id) == ("</s>", 0)
        assert encode_text(loaded, "</s>") != [0]
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is no JSON object with an eos_token"):
        load_tokenizer(str(file), pytest.fail, "")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 3}', "\xff"])
def test_what_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="latin-1")
    for name in (tmp_path / "tokenizer.json", tmp_path):
        with pytest.raises(ValueError, match=f"{name} (is not a tokenizer|holds no tokenizer).*can be read") as caught:
            load_tokenizer(str(name), pytest.fail, "")
        assert "\n" not in str(caught.value)


def trained(
    folder: Path,
    paragraphs: list[str],
    normalizer: normalizers.Normalizer | None = None,
    prefix: bool = False,
    split: pre_tokenizers.PreTokenizer | None = None,
    added: AddedToken | None = None,
    use_regex: bool = True,
) -> Path:
    """Train a byte-level tokenizer of that kind, and save it."""
    backend = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, level]) if split else level
    backend.decoder = decoders.ByteLevel()
    if normalizer:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(paragraphs[:200], trainer)
    if added:
        backend.add_tokens([added])
    backend.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


TEXTS = ["He said, 'tis true", "e\u0301 cafe\u0301", "  two spaces before", "a   <tool>   b"]
GPT4_SPLIT = pre_tokenizers.Split(
    Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "isolated",
)
KINDS: dict[str, tuple[dict, str | None]] = {
    "plain": ({}, None),
    "split as GPT-4's": ({"split": GPT4_SPLIT, "use_regex": False}, None),
    "added token": ({"added": AddedToken("<tool>")}, None),
    "NFC, as Pythia's": ({"normalizer": normalizers.NFC()}, None),
    "add_prefix_space": ({"prefix": True}, "adds no space before a text"),
    "NFKC": ({"normalizer": normalizers.NFKC()}, r"changes the text before it reads it \(NFKC\)"),
    "Strip": ({"normalizer": normalizers.Strip()}, r"\(Strip\)"),
    "Lowercase": (
        {"normalizer": normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])},
        r"\(Lowercase\)",
    ),
    "WhitespaceSplit": ({"split": pre_tokenizers.WhitespaceSplit()}, "drops none between words"),
    "removing split": ({"split": pre_tokenizers.Split("-", "removed")}, r"\(Split\).*drops none between words"),
    "removing what no probe has": ({"split": pre_tokenizers.Split("%", "removed")}, r"\(Split\).*drops none"),
    "removing in a sequence": (
        {"split": pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Punctuation("removed")])},
        r"\(Punctuation\).*drops none between words",
    ),
    "isolating split": ({"split": pre_tokenizers.Split("%", "isolated")}, None),
    "added token that strips": ({"added": AddedToken("<tool>", lstrip=True, rstrip=True)}, "strips none around"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_a_text_are_counted_or_the_tokenizer_is_refused(
    tmp_path: Path, paragraphs: list[str], kind: str
) -> None:
    changes, refusal = KINDS[kind]
    file = trained(tmp_path, paragraphs, **changes)
    if refusal:
        with pytest.raises(ValueError, match=f"{file} .*{refusal}") as caught:
            load_tokenizer(str(file), pytest.fail, "")
        assert "\n" not in str(caught.value)
        return
    loaded = load_tokenizer(str(file), pytest.fail, "")
    table = bytes_per_token(loaded)
    as_read = [unicodedata.normalize("NFC", text) if changes.get("normalizer") else text for text in TEXTS]
    for text, ids in zip(as_read, encode_documents(loaded, TEXTS), strict=True):
        assert loaded.decode(ids[:-1]) == text
        assert table[ids].sum() == len(text.encode())


def in_tokenizer(file: Path, change: Callable[[dict], object]) -> Path:
    """Change the description of a saved tokenizer."""
    description = json.loads(file.read_text())
    change(description)
    file.write_text(json.dumps(description))
    return file


def without(byte: bytes) -> Callable[[dict], None]:
    """Take the token of one byte out of a vocabulary, and every token that is merged from it."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ((character, _),) = level.pre_tokenize_str(byte.decode("ascii"))

    def change(description: dict) -> None:
        model = description["model"]
        model["vocab"] = {text: token for text, token in model["vocab"].items() if character not in text}
        model["merges"] = [merge for merge in model["merges"] if character not in "".join(merge)]

    return change


@pytest.mark.parametrize("settings_of_model", [{}, {"unk_token": "[UNK]"}, {"byte_fallback": True}])
@pytest.mark.parametrize("byte", [b"Q", b"~", b" "])
def test_a_vocabulary_without_some_byte_is_refused(
    tmp_path: Path, paragraphs: list[str], byte: bytes, settings_of_model: dict
) -> None:
    file = in_tokenizer(trained(tmp_path, paragraphs), without(byte))
    in_tokenizer(file, lambda description: description["model"].update(settings_of_model))
    with pytest.raises(
        ValueError, match=f"has no token for 1 of the 243 bytes of UTF-8 .one is 0x{byte.hex().upper()}"
    ):
        load_tokenizer(str(file), pytest.fail, "")


def test_a_control_character_may_be_missing_and_a_text_that_has_it_is_refused(
    tmp_path: Path, paragraphs: list[str]
) -> None:
    """As in the tokenizer of SmolLM2."""
    loaded = load_tokenizer(str(in_tokenizer(trained(tmp_path, paragraphs), without(b"\x04"))), pytest.fail, "")
    assert loaded.decode(encode_text(loaded, "one\x05 two")) == "one\x05 two"
    with pytest.raises(ValueError, match="holds the byte 0x04"):
        encode_text(loaded, "one\x04 two")


def test_the_bytes_that_no_text_has_may_be_missing(tmp_path: Path, paragraphs: list[str]) -> None:
    """As in the GPT-NeoX tokenizer, in which Pythia's line feed is token 187."""
    never = [byte for byte in range(256) if not any(byte in chr(point).encode() for point in code_points())]
    characters = {chr(byte) for byte in never}
    file = in_tokenizer(
        trained(tmp_path, paragraphs),
        lambda description: [description["model"]["vocab"].pop(text) for text in characters],
    )
    loaded = load_tokenizer(str(file), pytest.fail, "")
    everything = "".join(map(chr, code_points()))
    ids = encode_text(loaded, everything)
    assert loaded.decode(ids) == everything
    assert bytes_per_token(loaded)[ids].sum() == len(everything.encode())
    assert len(never) == 13


def code_points() -> list[int]:
    """Code points with every byte that UTF-8 has, none of them changed or folded."""
    return [*range(0x80), *range(0x80, 0x800), *range(0x800, 0xD800, 61), *range(0xE000, 0x110000, 4093)]


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "", "max_input_chars_per_word": 100},
        {"type": "BPE", "continuing_subword_prefix": "##", "merges": []},
        {"type": "BPE", "end_of_word_suffix": "</w>", "merges": []},
    ],
)
def test_a_model_with_unknown_words_is_refused(tmp_path: Path, paragraphs: list[str], model: dict) -> None:
    file = trained(tmp_path, paragraphs)
    in_tokenizer(
        file,
        lambda description: description.update(model=model | {"vocab": description["model"]["vocab"] | {"[UNK]": 400}}),
    )
    with pytest.raises(ValueError, match=f"is a {model['type']} that reads some words as unknown or drops them"):
        load_tokenizer(str(file), pytest.fail, "")


def test_a_template_adds_nothing_to_a_text(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    text = "The people of the United States."
    expected = encode_text(tokenizer, text)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path), pytest.fail, "")
    end = loaded.eos_token
    loaded.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{end} $A {end}", special_tokens=[(end, 0)]
    )
    assert loaded(text)["input_ids"] == [0, *expected, 0]
    assert encode_text(loaded, text) == expected
    (ids,) = encode_documents(loaded, [text])
    assert ids.tolist() == [*expected, 0]


PIECES_OF_TEXT = "word don't 'Tis 3 1,000 ... -- é e\u0301 日本 。 <tool> <|endoftext|> \u200d 👩 _ xxxxxxxxxxxxxxx A.B"
WORDS = st.sampled_from([*PIECES_OF_TEXT.split(" "), " ", "  ", "\n", "\r\n", "\t", "\u3000", "\u00a0"])


@pytest.fixture(scope="module", params=["plain", "split as GPT-4's", "added token", "NFC, as Pythia's"])
def kind_of_tokenizer(
    request: pytest.FixtureRequest, paragraphs: list[str], tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedTokenizerFast:
    file = trained(tmp_path_factory.mktemp("kind"), paragraphs, **KINDS[request.param][0])
    return load_tokenizer(str(file), pytest.fail, "")


@given(words=st.lists(WORDS, min_size=20, max_size=300))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_have_the_ids_of_the_whole_text(
    kind_of_tokenizer: PreTrainedTokenizerFast, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(words)
    # A piece with the word and the space in it has a place for a cut.
    text = " and so ".join([text[start : start + 60] for start in range(0, len(text), 60)])
    whole = encode_text(kind_of_tokenizer, text)
    with monkeypatch.context() as patch:
        patch.setattr(pieces, "LONGEST_PIECE", 100)
        cut = list(cut_into_pieces(text, kind_of_tokenizer.backend_tokenizer, plain_ids(kind_of_tokenizer)))
        assert "".join(cut) == text
        assert len(cut) >= len(text) / 100
        assert encode_text(kind_of_tokenizer, text) == whole


def plain_ids(tokenizer: PreTrainedTokenizerFast):
    return lambda texts: tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("use_regex", [True, False])
def test_a_word_without_end_is_cut_and_nothing_is_lost(
    tmp_path: Path, paragraphs: list[str], use_regex: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the tokenizer merges across white space, so that there is no place that is sure."""
    monkeypatch.setattr(pieces, "LONGEST_PIECE", 50)
    loaded = load_tokenizer(str(trained(tmp_path, paragraphs, use_regex=use_regex)), pytest.fail, "")
    for text in ("e\u0301" * 400, "no space " * 100 + "\u0301" * 120):
        cut = list(cut_into_pieces(text, loaded.backend_tokenizer, plain_ids(loaded)))
        assert "".join(cut) == text
        assert max(map(len, cut)) == 50
        ids = encode_text(loaded, text)
        assert loaded.decode(ids) == text
        assert bytes_per_token(loaded)[ids].sum() == len(text.encode())


def test_long_texts_are_encoded_in_pieces(tokenizer: PreTrainedTokenizerFast, paragraphs: list[str]) -> None:
    text = " ".join(paragraphs)
    assert len(text) > 5 * LONGEST_PIECE
    assert encode_text(tokenizer, text) == plain_ids(tokenizer)([text])[0]


def test_a_hub_tokenizer_fails_with_one_clear_error(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> None:
        raise OSError("couldn't connect")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(HubUnavailableError, match=r"the tokenizer gpt2 in 5 tries.*bpe:4096"):
        load_tokenizer("gpt2", pytest.fail, "")
    assert len(fake_hub.waits) == 4

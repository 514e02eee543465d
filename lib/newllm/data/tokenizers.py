"""Tokenizers: from the hub, from a file, or a byte-level BPE trained on the training documents."""

import json
import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from newllm.data.cache import cache_key, cached_file, is_whole
from newllm.data.hub import ask_hub
from newllm.data.pieces import cut_into_pieces
from newllm.files import cache_folder, digest
from newllm.wording import first_line

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
OFFLINE_CHOICE = "tokenizer: bpe:4096 or the path of a tokenizer.json"

# Pieces of text are encoded in batches of about this many characters, so that little is encoded in vain.
BATCH_CHARACTERS = 500_000

# The bytes that UTF-8 is made of; the 13 others occur in no text, and the GPT-NeoX tokenizer has no tokens for them.
UTF8_BYTES = frozenset(range(256)) - {0xC0, 0xC1, *range(0xF5, 0x100)}

# Of these, what hardly a text has: control characters, and beginnings of what Unicode leaves unassigned or to fonts.
# SmolLM2 has no tokens for some of them: then a text that has them is refused, not the tokenizer.
RARE_BYTES = frozenset(range(0x20)) - set(b"\t\n\r") | {0x7F, 0xF1, 0xF2, 0xF3, 0xF4}

# Pre-tokenizers that only part a text: the others drop or replace some of it.
PARTING = ("Sequence", "ByteLevel", "Split", "Digits", "Punctuation", "UnicodeScripts", "FixedLength")

# Models that find tokens for every word whose characters are all in the vocabulary.
LOSSLESS_MODELS = ("BPE", "Unigram")

# What a tokenizer must read as it stands: what normalisers fold, strip or replace, and what splits drop.
PROBES = (
    "He said, 'tis true",
    "  two spaces before",
    "a line ends here \t\r\n\r and there  \n\n ",
    "e\u0301 cafe\u0301 \ufb01ve \u00bd \uff21",
    "\u00dcn\u00efc\u00f6de \u1e9e \u0130 \u20ac",
    "nothing\x00\x7f\u00a0\u200b\u3000\ufeffhere",
    "1234567 3.14 1,000 @-@ ``a'' -- b\u2026",
    "\u65e5\u672c\u8a9e\u3001\u30c6\u30ad\u30b9\u30c8\u3002 \U0001f469\u200d\U0001f467",
    "<|endoftext|> [UNK] <s>",
)


def load_tokenizer(
    name: str, training_documents: Callable[[], Iterable[str]], documents_identity: str
) -> PreTrainedTokenizerFast:
    """Load, or train, the tokenizer of this name.

    Parameters
    ----------
    name
        ``bpe:<size>``, the path of a tokenizer.json, a folder with a saved tokenizer, or a hub id.
    training_documents
        Gives the documents that ``bpe:<size>`` is trained on; called only where it must be trained.
    documents_identity
        What those documents depend on: part of the trained tokenizer's cache key.

    Returns
    -------
    PreTrainedTokenizerFast
        Byte-level, with an end-of-text token.

    Raises
    ------
    ValueError
        A size that is no number or below 258; a file that is no tokenizer; a tokenizer without end-of-text, or one that
        does not read every byte of a text.
    FileNotFoundError
        A tokenizer.json that is not there.
    HubUnavailableError
        The hub did not answer.
    """
    if name.startswith("bpe:"):
        return _with_special_tokens(_trained(name, training_documents, documents_identity), END_OF_TEXT)
    path = Path(name).expanduser()
    if name.endswith(".json"):
        tokenizer = _from_file(path)
    elif path.is_dir():
        tokenizer = read_saved_tokenizer(path)
    else:
        tokenizer = _fast(
            name, ask_hub(lambda: AutoTokenizer.from_pretrained(name), f"the tokenizer {name}", OFFLINE_CHOICE)
        )
    refuse_unsuitable(tokenizer, f"tokenizer {name}")
    return tokenizer


def read_saved_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read the tokenizer that was saved in a folder.

    Raises
    ------
    ValueError
        Where there is none, or it cannot be read.
    """
    try:
        return _fast(str(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True))
    # The libraries raise whatever they stumble over: OSError, KeyError, TypeError, bare Exception ...
    except Exception as error:
        raise ValueError(
            f"{folder} holds no tokenizer that can be read ({first_line(error)}): save it there again, with "
            "tokenizer.save_pretrained(...)."
        ) from error


def _from_file(path: Path) -> PreTrainedTokenizerFast:
    """Read a tokenizer.json; its end-of-text token is the ``eos_token`` of a tokenizer_config.json beside it."""
    if not path.is_file():
        raise FileNotFoundError(f"tokenizer is {str(path)!r}, but there is no such file (seen from {Path.cwd()}).")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path} is not a tokenizer.json that can be read ({first_line(error)}).") from error
    config = path.with_name("tokenizer_config.json")
    end_of_text = END_OF_TEXT
    if config.is_file():
        try:
            named = json.loads(config.read_text(encoding="utf-8")).get("eos_token") or END_OF_TEXT
            end_of_text = named["content"] if isinstance(named, dict) else str(named)
        except (ValueError, AttributeError, KeyError) as error:
            raise ValueError(f"{config} is no JSON object with an eos_token ({first_line(error)}).") from error
    if tokenizer.token_to_id(end_of_text) is None:
        raise ValueError(
            f"{path} has no token {end_of_text}, which stands between documents: name its own end-of-text token as "
            f"eos_token in {config}."
        )
    return _with_special_tokens(tokenizer, end_of_text)


def _fast(name: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"tokenizer {name} is not byte-level, so bits per byte cannot be counted.")
    return tokenizer


def _with_special_tokens(tokenizer: Tokenizer, end_of_text: str) -> PreTrainedTokenizerFast:
    padding = PADDING if tokenizer.token_to_id(PADDING) is not None else end_of_text
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end_of_text, eos_token=end_of_text, pad_token=padding
    )


def _trained(name: str, documents: Callable[[], Iterable[str]], documents_identity: str) -> Tokenizer:
    """Byte-level BPE of the given size: end-of-text is id 0 and padding id 1, as in Pythia's tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    smallest = len(alphabet) + 2
    size = name.removeprefix("bpe:")
    if not size.isdecimal() or int(size) < smallest:
        raise ValueError(f"tokenizer is {name!r}, but bpe:<size> needs a whole number of at least {smallest}.")
    key = cache_key(name=name, documents=documents_identity, library=tokenizers.__version__)
    path = cache_folder() / "tokenizers" / f"{name.replace(':', '-')}-{key}.json"
    if is_whole(path):
        return Tokenizer.from_file(str(path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=int(size), special_tokens=[END_OF_TEXT, PADDING], initial_alphabet=alphabet, show_progress=False
    )
    logger.info("training the tokenizer %s", name)
    tokenizer.train_from_iterator(documents(), trainer)
    if tokenizer.get_vocab_size() < int(size):
        logger.warning("%s: the text gave only %d tokens", name, tokenizer.get_vocab_size())
    with cached_file(path) as temporary:
        tokenizer.save(str(temporary))
    return tokenizer


def _description(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Give the tokenizer's JSON without the settings that a call with padding or truncation leaves behind."""
    description: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in description.items() if key not in ("truncation", "padding")}


def tokenizer_identity(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hash of the tokenizer's JSON and its end-of-text token: equal where the ids of every text are equal."""
    described = json.dumps([_description(tokenizer), tokenizer.eos_token], sort_keys=True)
    return digest(described)[:32]


def bytes_per_token(tokenizer: PreTrainedTokenizerFast) -> NDArray[np.int64]:
    """Bytes of text that each token id stands for (vocabulary,); special tokens stand for none.

    Parameters
    ----------
    tokenizer
        A byte-level tokenizer: each character of a token is one byte of the text.

    Raises
    ------
    ValueError
        For a tokenizer of another kind, whose tokens do not tell their bytes.
    """
    backend = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = backend.get_vocab(with_added_tokens=True)
    table = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for text, token_id in vocabulary.items():
        if token_id in added:
            table[token_id] = 0 if added[token_id].special else len(text.encode())
        elif alphabet.issuperset(text):
            table[token_id] = len(text)
        else:
            raise ValueError(f"tokenizer is not byte-level (its token {text!r}), so bits per byte cannot be counted.")
    return table


def refuse_unsuitable(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Refuse a tokenizer without end-of-text, or one that does not read a text as it stands.

    Composition (NFC), which the GPT-NeoX tokenizer has, is the one change that is accepted: the bytes of a text are
    then those of its composed form, which is what is read.

    Parameters
    ----------
    tokenizer
        The tokenizer.
    name
        What it is called in the message.

    Raises
    ------
    ValueError
        Says which and why.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{name} has no end-of-text token, which stands between documents: give it an eos_token.")
    try:
        table = bytes_per_token(tokenizer)
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
    description = _description(tokenizer)
    normalizer = description.get("normalizer")
    parts = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer]
    changing = [part["type"] for part in parts if part and part["type"] != "NFC"]
    if changing:
        raise ValueError(
            f"{name} changes the text before it reads it ({', '.join(changing)}), so bits per byte cannot be counted: "
            "take one that has no normalizer, or NFC alone."
        )
    _refuse_dropped_text(tokenizer, description, name)
    if description["model"].get("dropout"):
        raise ValueError(f"{name} splits words by chance (dropout), so that its ids differ from call to call.")
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    texts = [*PROBES, *(f"a   {token.content}   b" for token in added if not token.special)]
    for text, ids in zip(texts, _encode_all(tokenizer, texts), strict=True):
        expected = unicodedata.normalize("NFC", text) if normalizer else text
        read = decoders.ByteLevel().decode(tokenizer.convert_ids_to_tokens(ids))
        if read != expected or table[ids].sum() != len(expected.encode()):
            raise ValueError(
                f"{name} reads {read!r} where {text!r} stands, so bits per byte cannot be counted: take a byte-level "
                "one that adds no space before a text, strips none around its tokens, and drops none between words."
            )


def _refuse_dropped_text(tokenizer: PreTrainedTokenizerFast, description: dict[str, Any], name: str) -> None:
    """Refuse whatever drops a part of some text, or reads it as unknown, whether or not the probes have that part."""
    removing = list(_removing(description.get("pre_tokenizer")))
    if removing:
        raise ValueError(
            f"{name} drops a part of the text ({', '.join(removing)}), so bits per byte cannot be counted: take one "
            "that drops none between words."
        )
    model = description["model"]
    if (
        model["type"] not in LOSSLESS_MODELS
        or model.get("continuing_subword_prefix")
        or model.get("end_of_word_suffix")
    ):
        raise ValueError(
            f"{name} is a {model['type']} that reads some words as unknown or drops them, so bits per byte cannot be "
            "counted: take a byte-level BPE without a prefix or suffix of subwords."
        )
    missing = sorted(_missing(tokenizer, UTF8_BYTES - RARE_BYTES))
    if missing:
        raise ValueError(
            f"{name} has no token for {len(missing)} of the {len(UTF8_BYTES)} bytes of UTF-8 (one is "
            f"0x{missing[0]:02X}), so that it drops them: train it with initial_alphabet=ByteLevel.alphabet()."
        )


def _missing(tokenizer: PreTrainedTokenizerFast, asked: Iterable[int]) -> frozenset[int]:
    """Give the bytes, of those that are asked for, which the tokenizer has no token for."""
    character, known = bytes_to_unicode(), tokenizer.backend_tokenizer.token_to_id
    return frozenset(byte for byte in asked if known(character[byte]) is None)


def _removing(pre_tokenizer: dict[str, Any] | None) -> Iterator[str]:
    """Give the names of the pre-tokenizers, of one and all in it, that drop or replace some of a text."""
    if pre_tokenizer is None:
        return
    kind = pre_tokenizer["type"]
    if kind not in PARTING or pre_tokenizer.get("behavior") == "Removed":
        yield kind
    for part in pre_tokenizer.get("pretokenizers", []):
        yield from _removing(part)


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Give the ids of a text alone: the one way in which text becomes ids.

    No beginning or end that the tokenizer's template would add stands among them: whoever needs one puts it there.
    Special tokens that the text spells out are the plain text they are. Nothing is truncated. A long text is encoded in
    pieces, as `newllm.data.pieces.cut_into_pieces` says.

    Parameters
    ----------
    tokenizer
        Any tokenizer of the `tokenizers` library.
    text
        Any text.

    Raises
    ------
    ValueError
        Where the text has a byte that the tokenizer has no token for and would drop.
    """
    return [token for ids, _ in _encode_pieces(tokenizer, [text]) for token in ids]


def encode_documents(tokenizer: PreTrainedTokenizerFast, documents: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
    """Encode documents lazily, each as `encode_text` does, followed by end-of-text.

    Yields
    ------
    numpy.ndarray
        Ids of one document, and end-of-text.
    """
    parts: list[NDArray[np.uint32]] = []
    for ids, is_last in _encode_pieces(tokenizer, documents):
        parts.append(np.array(ids, dtype=np.uint32))
        if is_last:
            yield np.concatenate([*parts, np.array([tokenizer.eos_token_id], dtype=np.uint32)])
            parts = []


def _encode_pieces(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Iterator[tuple[list[int], bool]]:
    """Ids of the pieces of each text, and whether it is the text's last one."""
    for batch in _batches(_pieces(tokenizer, texts)):
        encoded = _encode_all(tokenizer, [piece for piece, _ in batch])
        yield from zip(encoded, (is_last for _, is_last in batch), strict=True)


def _pieces(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
    missing = _missing(tokenizer, RARE_BYTES)
    for text in texts:
        dropped = missing.intersection(text.encode()) if missing else missing
        if dropped:
            raise ValueError(
                f"the text {text[:40]!r}... holds the byte 0x{min(dropped):02X}, which its tokenizer has no token for "
                "and would drop: take it out of the text."
            )
        *earlier, last = cut_into_pieces(text, tokenizer.backend_tokenizer, lambda parts: _encode_all(tokenizer, parts))
        yield from ((piece, False) for piece in earlier)
        yield last, True


def _batches(pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    batch: list[tuple[str, bool]] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece[0])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode_all(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Ids of short texts: nothing added, nothing cut off, no special token seen in a text."""
    ids: list[list[int]] = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return ids

"""Tokenizers: from the hub, from a file, or a byte-level BPE trained on the training documents."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from newllm.data.cache import cache_key
from newllm.data.hub import ask_hub
from newllm.files import atomic_file, cache_folder

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
OFFLINE_CHOICE = "tokenizer: bpe:4096 or the path of a tokenizer.json"

# Documents are encoded in batches of about this many characters, so that little is encoded in vain.
BATCH_CHARACTERS = 500_000


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
        A size that is no number or below 258, a tokenizer without end-of-text or one that is not byte-level.
    FileNotFoundError
        A tokenizer.json that is not there.
    HubUnavailableError
        The hub did not answer.
    """
    if name.startswith("bpe:"):
        return _with_special_tokens(_trained(name, training_documents, documents_identity))
    if name.endswith(".json"):
        if not Path(name).expanduser().is_file():
            raise FileNotFoundError(f"tokenizer is {name!r}, but there is no such file (seen from {Path.cwd()}).")
        tokenizer = _with_special_tokens(Tokenizer.from_file(str(Path(name).expanduser())))
    elif Path(name).is_dir():
        tokenizer = _byte_level(name, AutoTokenizer.from_pretrained(name))
    else:
        tokenizer = _byte_level(
            name, ask_hub(lambda: AutoTokenizer.from_pretrained(name), f"the tokenizer {name}", OFFLINE_CHOICE)
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer {name} has no end-of-text token, which stands between documents.")
    bytes_per_token(tokenizer)
    return tokenizer


def _byte_level(name: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"tokenizer {name} is not byte-level, so bits per byte cannot be counted.")
    return tokenizer


def _with_special_tokens(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise ValueError(f"tokenizer has no {END_OF_TEXT} token, which stands between documents.")
    padding = PADDING if tokenizer.token_to_id(PADDING) is not None else END_OF_TEXT
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=padding
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
    if path.is_file():
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for a file that it cannot read
            logger.warning("%s is damaged (%s): training that tokenizer again", path, error)
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
    with atomic_file(path) as temporary:
        tokenizer.save(str(temporary))
    return tokenizer


def _description(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Give the tokenizer's JSON without the settings that a call with padding or truncation leaves behind."""
    description: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in description.items() if key not in ("truncation", "padding")}


def tokenizer_identity(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hash of the tokenizer's JSON and its end-of-text token: equal where the ids of every text are equal."""
    described = json.dumps([_description(tokenizer), tokenizer.eos_token], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:32]


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


def encode_documents(tokenizer: PreTrainedTokenizerFast, documents: Iterable[str]) -> Iterator[list[int]]:
    """Encode documents lazily, each followed by end-of-text.

    Special tokens that a document spells out are encoded as the plain text they are.

    Yields
    ------
    list of int
        Ids of one document, and end-of-text.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    for batch in _batches(documents):
        for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
            yield [*encoding.ids, tokenizer.eos_token_id]


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch

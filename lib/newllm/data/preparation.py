"""From a source's name to windows of tokens, for training, for validation and for the test."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from newllm.config.counted_windows import CountedWindows
from newllm.config.groups import FACT_REPETITIONS, DataParameters
from newllm.data.facts import Fact, load_facts, training_sentences
from newllm.data.groups import DocumentGroups
from newllm.data.sides import TextSides
from newllm.data.sources import Document, is_endless, open_source
from newllm.data.splits import SIDES, Block, Shares, Side, SplitDocuments
from newllm.data.tokenizers import bytes_per_token, encode_documents, load_tokenizer, tokenizer_identity
from newllm.data.windows import CachedTokens, Tokens, TokenWindows, WindowCount, concatenate, smallest_id_type
from newllm.files import digest
from newllm.progress import stage

logger = logging.getLogger(__name__)

# The parameter that says how many windows a side has.
ASKED: dict[Side, str] = {"train": "samples", "validation": "val_samples", "test": "test_samples"}

# With fewer, an interval over documents says little.
FEWEST_GROUPS = 15

FACTS_GROUP = "facts"


class NotEnoughTextError(ValueError):
    """The source has less text than the windows asked for."""


@dataclass(frozen=True)
class TextData(TextSides):
    """Windows of a source, of which no document group has text on two sides.

    Attributes
    ----------
    tokenizer
        The tokenizer of the windows.
    """

    tokenizer: PreTrainedTokenizerFast


def prepare_data(
    parameters: DataParameters, *, facts: Sequence[Fact] = (), repetitions: int = FACT_REPETITIONS
) -> TextData:
    """Read, split, tokenise and cut the text that the parameters name; from the cache where it is there.

    Parameters
    ----------
    parameters
        Source, tokenizer, and how many windows of which length. No seed: the data is always the same.
    facts
        Their forward sentences are packed behind the training text. Whole windows are added for them (the rest of
        the last one is filled with further text), so that the first ``samples`` stay as they are.
    repetitions
        How often each of these sentences is there.

    Returns
    -------
    TextData
        Memory-mapped windows, the tokenizer, and their identity.

    Raises
    ------
    NotEnoughTextError
        Says how many windows the source has.
    ValueError, FileNotFoundError, HubUnavailableError
        All windows of a stream that is not read to its end, fewer windows than the parameters need, and as
        `newllm.data.sources.open_source` and `newllm.data.tokenizers.load_tokenizer` say.
    """
    refuse_endless(parameters)
    source = open_source(parameters.source, parameters.text_files)
    shares = Shares(parameters.validation_percent, parameters.test_percent)
    documents = SplitDocuments(source, shares)
    documents_identity = f"{source.name} {source.version} / {shares.rule(source)}"
    tokenizer = load_tokenizer(
        parameters.tokenizer, lambda: (document.text for document in documents.first.train), documents_identity
    )
    identity = {
        "source": source.name,
        "version": source.version,
        "documents": documents_identity,
        "tokenizer": parameters.tokenizer,
        "tokenizer_identity": tokenizer_identity(tokenizer),
    }
    facts_tokens = _facts(tokenizer, facts, repetitions)
    lengths = _lengths(parameters, len(facts_tokens.ids))
    caches = {
        side: CachedTokens(
            f"{source.name}-{side}",
            length,
            side=side,
            documents=documents_identity,
            tokenizer=identity["tokenizer_identity"],
        )
        for side, length in lengths.items()
    }
    made = _read_or_tokenise(caches, documents, tokenizer, parameters)
    table = bytes_per_token(tokenizer)
    if facts:
        identity["facts"] = _digest(facts_tokens.ids.tobytes())
    windows = {}
    for side, tokens in made.items():
        behind = facts_tokens if side == "train" else Tokens(facts_tokens.ids[:0], DocumentGroups.of([]))
        tokens = _whole_windows(tokens, len(behind.ids), side, parameters)
        tokens = _with_facts(tokens, behind, f"{source.name}-{side}-facts")
        identity[f"{side}_ids"] = _digest(tokens.ids.tobytes())
        windows[side] = TokenWindows(tokens.ids, parameters.seq_length, table, tokens.groups)
        if not facts:  # with facts behind the training text, held-out windows are those of the text alone
            _warn_of_few_groups(windows[side], side)
    if isinstance(parameters, CountedWindows):
        parameters.check_windows(len(windows["train"]), len(windows["test"]))
    return TextData(**windows, tokenizer=tokenizer, identity=identity)


def refuse_endless(parameters: DataParameters) -> None:
    """Refuse all windows of a side where the source is a stream that nobody reads to its end.

    Raises
    ------
    ValueError
        Says which parameter needs a number.
    """
    if is_endless(parameters.source):
        for name in ASKED.values():
            if getattr(parameters, name) == "all":
                raise ValueError(
                    f"{name} is all, but source {parameters.source} is a stream that is not read to its end: give a "
                    "number of windows"
                )


def prepare_data_loaders(
    parameters: DataParameters, *, batch_size: int = 8, seed: int = 0, include_reversal_pairs: bool = False
) -> tuple[DataLoader[dict[str, Tensor]], DataLoader[dict[str, Tensor]]]:
    """Batches for training, shuffled by the seed, and for validation, in order: for a training loop of one's own.

    Parameters
    ----------
    parameters
        As for `prepare_data`.
    batch_size
        Windows in a batch.
    seed
        Decides the order of the training windows, and nothing else.
    include_reversal_pairs
        Add the forward sentences of the workbench's facts to the training windows.

    Returns
    -------
    tuple of DataLoader
        Training and validation; a batch is ``input_ids`` and ``labels``, both (batch, seq_length + 1).
    """
    data = prepare_data(parameters, facts=load_facts() if include_reversal_pairs else ())
    order = torch.Generator().manual_seed(seed)
    return (
        DataLoader(data.train, batch_size=batch_size, shuffle=True, generator=order),
        DataLoader(data.validation, batch_size=batch_size),
    )


def _facts(tokenizer: PreTrainedTokenizerFast, facts: Sequence[Fact], repetitions: int) -> Tokens:
    """End-of-text, then every training sentence with end-of-text behind it; nothing without facts."""
    id_type = smallest_id_type(len(tokenizer))
    if not facts:
        return Tokens(concatenate([[]], id_type), DocumentGroups.of([]))
    sentences = encode_documents(tokenizer, training_sentences(facts, repetitions))
    ids = concatenate([[tokenizer.eos_token_id], *sentences], id_type)
    return Tokens(ids, DocumentGroups.of([(len(ids), FACTS_GROUP)]))


def _lengths(parameters: DataParameters, fact_ids: int) -> dict[Side, WindowCount]:
    """Say how many ids of text each side takes."""
    lengths: dict[Side, WindowCount] = {}
    for side in SIDES:
        asked, behind = getattr(parameters, ASKED[side]), fact_ids if side == "train" else 0
        fact_windows = -(-behind // parameters.seq_length)
        lengths[side] = asked if asked == "all" else (asked + fact_windows) * parameters.seq_length + 1 - behind
    return lengths


def _whole_windows(tokens: Tokens, behind: int, side: Side, parameters: DataParameters) -> Tokens:
    """Cut the text of a side so that with so many ids behind it whole windows are filled.

    Raises
    ------
    NotEnoughTextError
        Where there is too little text for one window.
    """
    windows = (len(tokens.ids) + behind - 1) // parameters.seq_length
    length = windows * parameters.seq_length + 1 - behind
    if windows < 1 or length < 1:
        raise NotEnoughTextError(
            f"source {parameters.source} has text for 0 {side} windows of {parameters.seq_length}: ask for "
            "shorter ones, or take a longer source."
        )
    return Tokens(tokens.ids[:length], tokens.groups.first(length))


def _with_facts(tokens: Tokens, facts: Tokens, label: str) -> Tokens:
    """Put the facts behind the text, in a file of their own."""
    if not len(facts.ids):
        return tokens
    cache = CachedTokens(
        label, len(tokens.ids) + len(facts.ids), text=_digest(tokens.ids.tobytes()), facts=_digest(facts.ids.tobytes())
    )
    cached = cache.read()
    if cached is not None:
        return cached
    ids = concatenate([tokens.ids, facts.ids], tokens.ids.dtype.type)
    return cache.write(Tokens(ids, tokens.groups.with_more(len(facts.ids), FACTS_GROUP)))


def _warn_of_few_groups(windows: TokenWindows, side: Side) -> None:
    """Warn where held-out windows come from so few documents that they say little of others."""
    groups = len(windows.groups)
    if side != "train" and groups < FEWEST_GROUPS:
        logger.warning(
            "the %s windows (%d) come from %s: an interval over documents says little with fewer than %d; ask for more "
            "with %s",
            side,
            len(windows),
            f"{groups} document groups" if groups > 1 else "one document group",
            FEWEST_GROUPS,
            ASKED[side],
        )


def _read_or_tokenise(
    caches: Mapping[Side, CachedTokens],
    documents: SplitDocuments,
    tokenizer: PreTrainedTokenizerFast,
    parameters: DataParameters,
) -> dict[Side, Tokens]:
    """Give the ids of all sides from the cache; what is missing is made in one pass over the documents."""
    found = {side: cached for side, cache in caches.items() if (cached := cache.read()) is not None}
    needed = {side: cache.length for side, cache in caches.items() if side not in found}
    if needed:
        for side, tokens in _tokenise(documents, tokenizer, needed).items():
            length = needed[side]
            if length != "all" and len(tokens.ids) < length:
                raise NotEnoughTextError(
                    f"source {parameters.source} has text for "
                    f"{max(len(tokens.ids) - 1, 0) // parameters.seq_length} {side} windows of "
                    f"{parameters.seq_length}, but {ASKED[side]} {getattr(parameters, ASKED[side])} takes "
                    f"{-(-(length - 1) // parameters.seq_length)}: ask for fewer or for all, or take a longer source."
                )
            found[side] = caches[side].write(tokens)
    return {side: found[side] for side in caches}


def _tokenise(
    documents: Iterable[Block], tokenizer: PreTrainedTokenizerFast, needed: Mapping[Side, WindowCount]
) -> dict[Side, Tokens]:
    """First ``needed`` ids of each side, or all there are; reads no more blocks than that takes."""
    id_type = smallest_id_type(len(tokenizer))
    parts: dict[Side, list[NDArray[np.unsignedinteger]]] = {side: [] for side in needed}
    groups: dict[Side, list[str]] = {side: [] for side in needed}
    missing = {side: math.inf if length == "all" else length for side, length in needed.items()}
    total = sum(missing.values())
    with stage("tokenising", int(total) if math.isfinite(total) else None, "tokens") as told:
        for block in documents:
            for side in needed:
                side_documents: list[Document] = getattr(block, side) if missing[side] else []
                encoded = encode_documents(tokenizer, (document.text for document in side_documents))
                for document, ids in zip(side_documents, encoded, strict=False):
                    taken = ids if len(ids) <= missing[side] else ids[: int(missing[side])]
                    parts[side].append(taken.astype(id_type))
                    groups[side].append(document.group)
                    missing[side] -= len(taken)
                    told.advance(len(taken))
                    if not missing[side]:
                        break
            if not any(missing.values()):
                break
    return {
        side: Tokens(
            concatenate([[], *parts[side]], id_type),
            DocumentGroups.of(zip(map(len, parts[side]), groups[side], strict=True)),
        )
        for side in needed
    }


def _digest(content: bytes) -> str:
    return digest(content)[:32]

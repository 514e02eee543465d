"""From a source's name to windows of tokens, for training and for validation."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from newllm.config.groups import FACT_REPETITIONS, DataParameters
from newllm.data.facts import Fact, load_facts, training_sentences
from newllm.data.sources import Source, open_source
from newllm.data.splits import Block, Side, SplitDocuments, split_rule
from newllm.data.tokenizers import bytes_per_token, encode_documents, load_tokenizer, tokenizer_identity
from newllm.data.windows import CachedTokens, TokenIds, TokenWindows, concatenate, smallest_id_type
from newllm.files import digest, digest_of_json

logger = logging.getLogger(__name__)


class NotEnoughTextError(ValueError):
    """The source has less text than the windows asked for."""


@dataclass(frozen=True)
class TextData:
    """Windows for training and validation, and what they were made from.

    Attributes
    ----------
    train, validation
        The windows. No validation document has text in ``train``.
    tokenizer
        The tokenizer of the windows.
    identity
        Name and value of all that the windows depend on, with a digest of the ids of either side.
    """

    train: TokenWindows
    validation: TokenWindows
    tokenizer: PreTrainedTokenizerFast
    identity: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits which differ where the identity differs."""
        return digest_of_json(self.identity)[:32]


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
        As `newllm.data.sources.open_source` and `newllm.data.tokenizers.load_tokenizer` say.
    """
    source = open_source(parameters.source, parameters.text_files)
    documents = SplitDocuments(source, parameters.validation_percent)
    rule = split_rule(parameters.validation_percent)
    documents_identity = f"{source.name} {source.version} / {rule} / blocks of {source.block_size}"
    tokenizer = load_tokenizer(parameters.tokenizer, lambda: documents.first.train, documents_identity)
    identity = {
        "source": source.name,
        "version": source.version,
        "documents": documents_identity,
        "tokenizer": parameters.tokenizer,
        "tokenizer_identity": tokenizer_identity(tokenizer),
    }
    fact_ids = _fact_ids(tokenizer, facts, repetitions)
    fact_windows = -(-len(fact_ids) // parameters.seq_length)
    train_length = (parameters.samples + fact_windows) * parameters.seq_length + 1
    lengths: dict[Side, int] = {
        "train": train_length - len(fact_ids),
        "validation": parameters.val_samples * parameters.seq_length + 1,
    }
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
    ids = _read_or_tokenise(caches, documents, tokenizer, source, parameters)
    if facts:
        identity["facts"] = _digest(fact_ids.tobytes())
        with_facts = CachedTokens(
            f"{source.name}-train-facts", train_length, text=_digest(ids["train"].tobytes()), facts=identity["facts"]
        )
        text_ids = ids["train"]
        ids["train"] = with_facts.read_or_make(lambda: concatenate([text_ids, fact_ids], text_ids.dtype.type))
    for side, side_ids in ids.items():
        identity[f"{side}_ids"] = _digest(side_ids.tobytes())
    table = bytes_per_token(tokenizer)
    return TextData(
        train=TokenWindows(ids["train"], parameters.seq_length, table),
        validation=TokenWindows(ids["validation"], parameters.seq_length, table),
        tokenizer=tokenizer,
        identity=identity,
    )


def prepare_data_loaders(
    parameters: DataParameters, *, batch_size: int = 8, seed: int = 0, include_reversal_pairs: bool = False
) -> tuple[DataLoader[dict[str, Tensor]], DataLoader[dict[str, Tensor]]]:
    """Batches for training, shuffled by the seed, and for validation, in order.

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


def _fact_ids(tokenizer: PreTrainedTokenizerFast, facts: Sequence[Fact], repetitions: int) -> TokenIds:
    """End-of-text, then every training sentence with end-of-text behind it; nothing without facts."""
    id_type = smallest_id_type(len(tokenizer))
    if not facts:
        return concatenate([[]], id_type)
    sentences = encode_documents(tokenizer, training_sentences(facts, repetitions))
    return concatenate([[tokenizer.eos_token_id], *sentences], id_type)


def _read_or_tokenise(
    caches: Mapping[Side, CachedTokens],
    documents: SplitDocuments,
    tokenizer: PreTrainedTokenizerFast,
    source: Source,
    parameters: DataParameters,
) -> dict[Side, TokenIds]:
    """Ids of both sides from the cache; what is missing is made in one pass over the documents."""
    ids = {side: cached for side, cache in caches.items() if (cached := cache.read()) is not None}
    needed = {side: cache.length for side, cache in caches.items() if side not in ids}
    if needed:
        made = _tokenise(documents, tokenizer, needed)
        for side, length in needed.items():
            if len(made[side]) < length:
                asked = {"train": "samples", "validation": "val_samples"}[side]
                raise NotEnoughTextError(
                    f"source {source.name} has text for {max(len(made[side]) - 1, 0) // parameters.seq_length} "
                    f"{side} windows of {parameters.seq_length}, but {asked} {getattr(parameters, asked)} takes "
                    f"{-(-(length - 1) // parameters.seq_length)}: ask for fewer, or take a longer source."
                )
            ids[side] = caches[side].write(made[side])
    return ids


def _tokenise(
    documents: Iterable[Block], tokenizer: PreTrainedTokenizerFast, needed: Mapping[Side, int]
) -> dict[Side, TokenIds]:
    """First ``needed`` ids of each side, or all there are; reads no more blocks than that takes."""
    id_type = smallest_id_type(len(tokenizer))
    parts: dict[Side, list[NDArray[np.unsignedinteger]]] = {side: [] for side in needed}
    missing = dict(needed)
    with tqdm(total=sum(needed.values()), desc="tokenising", unit=" tokens", unit_scale=True, delay=2) as progress:
        for block in documents:
            for side in needed:
                for document_ids in encode_documents(tokenizer, getattr(block, side)) if missing[side] else ():
                    parts[side].append(document_ids[: missing[side]].astype(id_type))
                    missing[side] -= len(parts[side][-1])
                    progress.update(len(parts[side][-1]))
                    if not missing[side]:
                        break
            if not any(missing.values()):
                break
    return {side: concatenate([[], *parts[side]], id_type) for side in needed}


def _digest(content: bytes) -> str:
    return digest(content)[:32]

"""LAMBADA: the last word of a passage, guessed from all of it."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm.data.hub import dataset_revision, dataset_rows
from newllm.data.sources import file_texts
from newllm.data.tokenizers import encode_text
from newllm.evaluation.endings import Ending, score_endings

REPOSITORY, CONFIGURATION = "EleutherAI/lambada_openai", "default"
OFFLINE_CHOICE = "a local lambada_test.jsonl"


@dataclass(frozen=True)
class LambadaReport:
    """Scores over all passages.

    Attributes
    ----------
    accuracy
        Share of passages whose last word was the model's first guess, token for token.
    perplexity
        exp of the mean negative log-likelihood of a last word (of all its tokens together).
    passages
        How many there were.
    """

    accuracy: float
    perplexity: float
    passages: int


def evaluate_lambada(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    path: Path | str | None = None,
    *,
    window: int | None = None,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    tokens_a_step: int | None = None,
) -> LambadaReport:
    """Score the last words of a LAMBADA file, as EleutherAI's lm-evaluation-harness does (task lambada_openai).

    The task is that of Paperno et al. 2016 (arXiv:1606.06031), in the form that OpenAI scored GPT-2 with.

    Parameters
    ----------
    model
        Any causal language model.
    tokenizer
        Its tokenizer.
    path
        A .jsonl file, each line an object whose "text" is a passage; OpenAI's test set on the hub
        (EleutherAI/lambada_openai) where omitted.
    window
        Tokens that the model reads of a passage, at most its last ones; its longest sequence where omitted.
    batch_size
        Passages at once.
    device
        Where to score; the model's own device where omitted.
    tokens_a_step
        None scores a passage in one pass. A number sends it through the cache, that many tokens a call: for methods
        whose cache remembers less than the full pass sees.

    Raises
    ------
    ValueError
        A file that is not such JSONL, has no passages, or a passage without a word before its last.
    FileNotFoundError
        No such file.
    HubUnavailableError
        The hub did not answer.
    """
    scores = score_endings(
        model,
        [_encode(tokenizer, context, word) for context, word in read_passages(path)],
        window=window,
        batch_size=batch_size,
        device=device,
        tokens_a_step=tokens_a_step,
        description="LAMBADA",
    )
    mean = sum(score.log_likelihood for score in scores) / len(scores)
    return LambadaReport(
        accuracy=sum(score.greedy for score in scores) / len(scores),
        perplexity=math.exp(min(700, -mean)),
        passages=len(scores),
    )


def read_passages(path: Path | str | None = None) -> list[tuple[str, str]]:
    """Read a LAMBADA file, or the test set on the hub: of each passage what stands before its last word, and that word.

    Raises
    ------
    ValueError
        A file that is not such JSONL, has no passages, or a passage without a word before its last.
    FileNotFoundError
        No such file.
    HubUnavailableError
        The hub did not answer.
    """
    if path is None:
        return _passages(_hub_texts(), REPOSITORY)
    if Path(path).suffix != ".jsonl":
        raise ValueError(f"{path} must be a .jsonl file, each line an object whose text is a passage.")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path} (seen from {Path.cwd()}).")
    return _passages(file_texts(Path(path)), str(path))


def _hub_texts() -> Iterator[str]:
    revision = dataset_revision(REPOSITORY, OFFLINE_CHOICE)
    for row in dataset_rows(REPOSITORY, CONFIGURATION, "test", revision, OFFLINE_CHOICE):
        yield row["text"]


def _passages(texts: Iterable[str], where: str) -> list[tuple[str, str]]:
    passages = []
    for text in texts:
        context, _, word = text.rpartition(" ")
        if not context.strip() or not word:
            raise ValueError(f"a passage must be words with single spaces between them, got {text!r}.")
        passages.append((context, word))
    if not passages:
        raise ValueError(f"{where} holds no passages.")
    return passages


def _encode(tokenizer: PreTrainedTokenizerFast, context: str, word: str) -> Ending:
    """Ids of a passage, whose last word is the ending."""
    ids = encode_text(tokenizer, f"{context} {word}")
    return Ending(ids, len(ids) - len(encode_text(tokenizer, context.rstrip())))

"""LAMBADA: the last word of a passage, guessed from all of it."""

import glob
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm.data.sources import open_source
from newllm.evaluation.perplexity import score_rows, scoring


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
    path: Path | str,
    *,
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
        A .jsonl file, each line an object whose "text" is a passage.
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
    """
    if Path(path).suffix != ".jsonl":
        raise ValueError(f"{path} must be a .jsonl file, each line an object whose text is a passage.")
    passages = [row["text"] for row in open_source("text", [glob.escape(str(path))]).documents()]
    if not passages:
        raise ValueError(f"{path} holds no passages.")
    longest = model.config.max_position_embeddings + 1
    encoded = [_encode(tokenizer, passage, longest) for passage in passages]
    encoded.sort(key=lambda pair: len(pair[0]), reverse=True)  # passages of one length need little padding
    log_likelihoods: list[float] = []
    guessed: list[bool] = []
    with scoring(model, device) as place, tqdm(total=len(passages), desc="LAMBADA", delay=2) as progress:
        for start in range(0, len(encoded), batch_size):
            batch = encoded[start : start + batch_size]
            # Padding stands on the right, where a causal model does not see it.
            ids = pad_sequence([torch.tensor(ids) for ids, _ in batch], batch_first=True).to(place)
            losses, hits = score_rows(model, ids, tokens_a_step)
            for row, (row_ids, target_length) in enumerate(batch):
                target = slice(len(row_ids) - 1 - target_length, len(row_ids) - 1)
                log_likelihoods.append(-losses[row, target].sum().item())
                guessed.append(bool(hits[row, target].all()))
            progress.update(len(batch))
    return LambadaReport(
        accuracy=sum(guessed) / len(guessed),
        perplexity=math.exp(min(700, -sum(log_likelihoods) / len(log_likelihoods))),
        passages=len(passages),
    )


def _encode(tokenizer: PreTrainedTokenizerFast, passage: str, longest: int) -> tuple[list[int], int]:
    """Ids of a passage, at most the last ``longest``, and how many of them are its last word's."""
    context, _, word = passage.rpartition(" ")
    if not context.strip() or not word:
        raise ValueError(f"a passage must be words with single spaces between them, got {passage!r}.")
    ids = tokenizer.encode(passage)
    return ids[-longest:], len(ids) - len(tokenizer.encode(context.rstrip()))

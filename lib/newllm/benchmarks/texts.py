"""Perplexity of whole texts, such as any file of the user's: every token predicted once, with the context there is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm.data.sources import file_texts
from newllm.data.tokenizers import bytes_per_token, encode_text
from newllm.evaluation.endings import Ending, checked_window, score_endings
from newllm.evaluation.perplexity import perplexity_of


@dataclass(frozen=True)
class TextReport:
    """Scores over all texts, every token of them predicted once.

    Attributes
    ----------
    word_perplexity, token_perplexity, byte_perplexity
        exp of the negative log-likelihood over the words, the tokens and the bytes of the texts. That over tokens
        cannot be compared between tokenizers.
    bits_per_byte
        log2 of ``byte_perplexity``.
    documents, words, bytes, tokens
        What was scored.
    window, stride
        Tokens that the model read at once, and predicted at once after the first window of a text.
    """

    word_perplexity: float
    token_perplexity: float
    byte_perplexity: float
    bits_per_byte: float
    documents: int
    words: int
    bytes: int
    tokens: int
    window: int
    stride: int


def evaluate_text_file(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    path: Path | str,
    *,
    window: int | None = None,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    tokens_a_step: int | None = None,
) -> TextReport:
    """Score a plain text; of a .jsonl file, the text of each line as a document of its own.

    Words are what stands between white space; bytes are those that the tokenizer reads.

    Parameters
    ----------
    model, tokenizer, window, batch_size, device, tokens_a_step
        As for `evaluate_texts`.
    path
        A file in UTF-8.

    Raises
    ------
    ValueError, FileNotFoundError
        As `read_text_file` says.
    """
    texts = read_text_file(path)
    return evaluate_texts(
        model,
        tokenizer,
        texts,
        words=sum(len(text.split()) for text in texts),
        window=window,
        batch_size=batch_size,
        device=device,
        tokens_a_step=tokens_a_step,
        description="text",
    )


def read_text_file(path: Path | str) -> list[str]:
    """Read the documents of a text file: the whole of it, or of a .jsonl one a line; empty ones are left out.

    Raises
    ------
    ValueError
        A file that is not UTF-8, is no such JSONL, or holds no text.
    FileNotFoundError
        No such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (seen from {Path.cwd()}).")
    texts = [text for text in file_texts(path) if text.strip()]
    if not texts:
        raise ValueError(f"{path} holds no text.")
    return texts


def evaluate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    *,
    words: int,
    text_bytes: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    tokens_a_step: int | None = None,
    description: str = "scoring",
) -> TextReport:
    """Score each text alone, after one token that stands between texts; `rolling_windows` says how it is read.

    Parameters
    ----------
    model
        Any causal language model. Each window starts from an empty cache, or a zero state.
    tokenizer
        Its tokenizer.
    texts
        What to score.
    words, text_bytes
        How many words and bytes the texts have; the bytes that the tokenizer reads where omitted.
    window
        Tokens that the model reads at once, at most. Its longest sequence where omitted (2048 for models without one);
        a model that was trained on shorter windows is better asked with those.
    stride
        Tokens that are predicted at once after a text's first window; the others of the window are context. The window
        where omitted: then windows do not overlap, and all but the last of a text have one token of context.
    batch_size
        Windows at once; fewer where their logits would not fit in 256 MB.
    device
        Where to score; the model's own device where omitted.
    tokens_a_step
        None scores a window in one pass. A number sends it through the cache, that many tokens a call.
    description
        Of the progress bar.

    Raises
    ------
    ValueError
        An impossible window or stride.
    NonFiniteScoreError
        A model whose scores are no numbers.
    """
    window = checked_window(model, window)
    stride = window if stride is None else stride
    if not 1 <= stride <= window:
        raise ValueError(f"stride={stride} must be from 1 to the window of {window} tokens.")
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    encoded = [encode_text(tokenizer, text) for text in texts]
    windows = [ending for ids in encoded for ending in rolling_windows(ids, prefix, window, stride)]
    scores = score_endings(
        model,
        windows,
        window=window,
        batch_size=batch_size,
        device=device,
        tokens_a_step=tokens_a_step,
        description=description,
    )
    loss = -math.fsum(score.log_likelihood for score in scores)
    if text_bytes is None:
        table = bytes_per_token(tokenizer)
        text_bytes = sum(int(table[ids].sum()) for ids in encoded)
    tokens = sum(map(len, encoded))
    return TextReport(
        word_perplexity=perplexity_of(loss / words),
        token_perplexity=perplexity_of(loss / tokens),
        byte_perplexity=perplexity_of(loss / text_bytes),
        bits_per_byte=loss / text_bytes / math.log(2),
        documents=len(texts),
        words=words,
        bytes=text_bytes,
        tokens=tokens,
        window=window,
        stride=stride,
    )


def rolling_windows(ids: list[int], prefix: int, window: int, stride: int) -> list[Ending]:
    """Cut a text into windows so that every token is predicted exactly once, with as much context as there is.

    The first window reads the prefix and ``window - 1`` tokens, and predicts ``window`` tokens. Each later one predicts
    the next ``stride`` tokens, or those that are left, and reads the ``window`` tokens before the last of them.

    Parameters
    ----------
    ids
        The text.
    prefix
        The token before it.
    window
        Tokens read at once.
    stride
        Tokens predicted at once after the first window.
    """
    if not ids:
        return []
    predicted = min(window, len(ids))
    windows = [Ending([prefix, *ids[:predicted]], predicted)]
    while predicted < len(ids):
        count = min(stride, len(ids) - predicted)
        predicted += count
        windows.append(Ending(ids[predicted - window - 1 : predicted], count))
    return windows

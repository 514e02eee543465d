"""WikiText-2: perplexity per word, per token and per byte of its raw test articles."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm.data.hub import dataset_revision, dataset_rows
from newllm.data.sources import HUB_DATASETS
from newllm.data.tokenizers import encode_text
from newllm.evaluation.endings import Ending, checked_window, score_endings

OFFLINE_CHOICE = "a local wiki.test.raw"


# WikiText's text was split into words. These put it together again, in this order, as EleutherAI's harness does: its
# model scores are known in this form. (A last rule of the harness, which is a typing error, never applies.)
_DETOKENIZATION = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("s '", "s'"),
        *((rf" @{re.escape(mark)}@ ", mark) for mark in "-,."),  # 1 @,@ 000
        *((f" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"),
        *(
            (rf"{re.escape(left)}\s*([^{re.escape(right)}]*?)\s*{re.escape(right)}", rf"{left}\1{right}")
            for left, right in ("()", "[]", "{}", '""', "''")
        ),
        ("= = = =", "===="),
        ("= = =", "==="),
        ("= =", "=="),
        (" ° ", "°"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    )
)


@dataclass(frozen=True)
class WikitextReport:
    """Scores over all articles, every token of them predicted once.

    Attributes
    ----------
    word_perplexity, byte_perplexity
        exp of the negative log-likelihood of the text over its words, and over its bytes. Both are counted before the
        words are put together ("1 @,@ 000" is three words), so that they do not depend on how that is done.
    token_perplexity
        The same over the tokens that the model predicted: cannot be compared between tokenizers.
    bits_per_byte
        log2 of ``byte_perplexity``.
    documents, words, bytes, tokens
        What was scored.
    window, stride
        Tokens that the model read at once, and predicted at once after the first window of an article.
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


def evaluate_wikitext(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    path: Path | str | None = None,
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    tokens_a_step: int | None = None,
) -> WikitextReport:
    """Score the articles of WikiText-2 (Merity et al. 2016, arXiv:1609.07843), as EleutherAI's harness does.

    Each article is scored alone, after one end-of-text token; :func:`rolling_windows` says what is read of a long one.
    With the default stride the numbers are those of the harness's task ``wikitext``.

    Parameters
    ----------
    model
        Any causal language model. Each window starts from an empty cache, or a zero state.
    tokenizer
        Its tokenizer.
    path
        A raw file such as ``wiki.test.raw``; the test split on the hub (Salesforce/wikitext, wikitext-2-raw-v1) where
        omitted.
    window
        Tokens that the model reads at once, at most. Its longest sequence where omitted (2048 for models without one);
        a model that was trained on shorter windows is better asked with those.
    stride
        Tokens that are predicted at once after an article's first window; the others of the window are context. The
        window where omitted: then windows do not overlap, and all but the last of an article have one token of context.
    batch_size
        Windows at once; fewer where their logits would not fit in 256 MB.
    device
        Where to score; the model's own device where omitted.
    tokens_a_step
        None scores a window in one pass. A number sends it through the cache, that many tokens a call.

    Raises
    ------
    ValueError
        A file that is no raw WikiText, or an impossible window or stride.
    FileNotFoundError
        No such file.
    HubUnavailableError
        The hub did not answer.
    """
    window = checked_window(model, window)
    stride = window if stride is None else stride
    if not 1 <= stride <= window:
        raise ValueError(f"stride={stride} must be from 1 to the window of {window} tokens.")
    articles = split_articles(read_wikitext(path))
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    windows: list[Ending] = []
    for article in articles:
        windows += rolling_windows(encode_text(tokenizer, detokenize(article)), prefix, window, stride)
    scores = score_endings(
        model,
        windows,
        window=window,
        batch_size=batch_size,
        device=device,
        tokens_a_step=tokens_a_step,
        description="WikiText",
    )
    loss = -math.fsum(score.log_likelihood for score in scores)
    words = sum(count_words(article) for article in articles)
    text_bytes = sum(len(article.encode()) for article in articles)
    tokens = sum(ending.length for ending in windows)
    return WikitextReport(
        word_perplexity=_exp(loss / words),
        token_perplexity=_exp(loss / tokens),
        byte_perplexity=_exp(loss / text_bytes),
        bits_per_byte=loss / text_bytes / math.log(2),
        documents=len(articles),
        words=words,
        bytes=text_bytes,
        tokens=tokens,
        window=window,
        stride=stride,
    )


def read_wikitext(path: Path | str | None = None) -> str:
    """Read a raw WikiText file, or the test split on the hub.

    Raises
    ------
    ValueError
        A file that is not UTF-8, or has no article heading such as " = Robert Boulter = ".
    FileNotFoundError
        No such file.
    HubUnavailableError
        The hub did not answer.
    """
    if path is None:
        return _hub_text()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (seen from {Path.cwd()}).")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}).") from error
    if not any(_is_heading(line) for line in text.split("\n")):
        raise ValueError(
            f"{path} has no article heading such as ' = Robert Boulter = ': it must be a raw WikiText file, like "
            "wiki.test.raw of wikitext-2-raw-v1."
        )
    return text


def _hub_text() -> str:
    dataset = HUB_DATASETS["wikitext"]
    revision = dataset_revision(dataset.repository, OFFLINE_CHOICE)
    rows = dataset_rows(dataset.repository, dataset.configuration, "test", revision, OFFLINE_CHOICE)
    # The hub's rows are the file's lines, but the space of its blank lines is lost.
    return "".join((row["text"].rstrip("\n") or " ") + "\n" for row in rows)


def _is_heading(line: str) -> bool:
    """Tell whether a line opens an article, " = Title = ", and not a section, " = = Section = = "."""
    joined = line.replace("= = =", "===").replace("= =", "==").strip()
    return joined.startswith("= ") and joined.endswith(" =")


def split_articles(text: str) -> list[str]:
    """Split a raw WikiText file into its articles, their text unchanged; a line " = Title = " opens one."""
    articles: list[list[str]] = [[]]
    for line in text.split("\n"):
        if _is_heading(line):
            articles.append([])
        articles[-1].append(line)
    return [article for article in map("\n".join, articles) if article.strip()]


def detokenize(article: str) -> str:
    """Put the words of an article together as they are usually written: "1 @,@ 000 words ." becomes "1,000 words."."""
    for pattern, replacement in _DETOKENIZATION:
        article = pattern.sub(replacement, article)
    return article


def count_words(article: str) -> int:
    """Count the words between the white space of an article; empty ones at its ends count, as the harness has it."""
    return len(re.split(r"\s+", article))


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


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf

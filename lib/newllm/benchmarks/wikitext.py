"""WikiText-2: perplexity per word, per token and per byte of its raw test articles."""

import re
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm.benchmarks.texts import TextReport, evaluate_texts
from newllm.data.hub import dataset_revision, dataset_rows
from newllm.data.sources import HUB_DATASETS

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
) -> TextReport:
    """Score the articles of WikiText-2 (Merity et al. 2016, arXiv:1609.07843), as EleutherAI's harness does.

    Words and bytes are counted before the words are put together ("1 @,@ 000" is three words), so that they do not
    depend on how that is done. With the default stride the numbers are those of the harness's task ``wikitext``.

    Parameters
    ----------
    model, tokenizer, window, stride, batch_size, device, tokens_a_step
        As for `newllm.benchmarks.texts.evaluate_texts`.
    path
        A raw file such as ``wiki.test.raw``; the test split on the hub (Salesforce/wikitext, wikitext-2-raw-v1) where
        omitted.

    Raises
    ------
    ValueError
        A file that is no raw WikiText, or an impossible window or stride.
    FileNotFoundError
        No such file.
    HubUnavailableError
        The hub did not answer.
    """
    articles = split_articles(read_wikitext(path))
    return evaluate_texts(
        model,
        tokenizer,
        [detokenize(article) for article in articles],
        words=sum(count_words(article) for article in articles),
        text_bytes=sum(len(article.encode()) for article in articles),
        window=window,
        stride=stride,
        batch_size=batch_size,
        device=device,
        tokens_a_step=tokens_a_step,
        description="WikiText",
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

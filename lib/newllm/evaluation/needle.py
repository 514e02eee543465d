"""A needle with two choices: of two names that stand in a text, the one that a sentence was said with is asked for.

The names stand in two sentences in real, held-out text; later one of the sentences begins again. Every text is read
twice, the second time with the names exchanged, so that a model which forgets them is at chance exactly, whichever name
it likes better, and in both orders of the sentences, so that it gains nothing by liking the latest name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm.data.tokenizers import encode_text
from newllm.evaluation.comparison_statistics import document_interval
from newllm.evaluation.perplexity import refuse_non_finite, scoring
from newllm.evaluation.recall import can_tell
from newllm.evaluation.statistics import Interval

# What stands before a name, and what closes the sentence behind it.
SENTENCES = (" Our minister has returned from", " The commissioners have arrived in")
CLOSE = "."
# Tokens of real text before the sentences.
LEAD = 16
CHANCE = 0.5
TEXTS_A_WINDOW = 4
COLUMNS = (
    "times",
    "distance",
    "margin",
    "margin_low",
    "margin_high",
    "right",
    "right_low",
    "right_high",
    "texts",
)


@dataclass(frozen=True)
class Needle:
    """What a model is asked, as ids.

    Attributes
    ----------
    sentences
        The two beginnings of a sentence.
    close
        What ends one.
    names
        Ids (M,) of the names, each one token.
    """

    sentences: tuple[list[int], list[int]]
    close: list[int]
    names: NDArray[np.int64]

    @property
    def block_tokens(self) -> int:
        """Tokens of both sentences, each with its name."""
        return sum(len(sentence) + 1 + len(self.close) for sentence in self.sentences)

    def text_tokens(self, distance: int, times: int) -> int:
        """Tokens of the longest text that is read, up to the name that is asked for."""
        return LEAD + times * self.block_tokens + distance + max(map(len, self.sentences))


def fewest_tokens(distance: int, times: int) -> int:
    """Tokens that the longest text has with any tokenizer: each word is one at least, and each name and end is one.

    Parameters
    ----------
    distance, times
        As for `ask_needles`.
    """
    words = [len(sentence.split()) for sentence in SENTENCES]
    return LEAD + times * sum(count + 2 for count in words) + distance + max(words)


def known_names(tokenizer: PreTrainedTokenizerFast, names: Sequence[str]) -> list[str]:
    """Return the names that are a single token behind a space, so that a choice between two is a choice of one token.

    Parameters
    ----------
    tokenizer
        The model's.
    names
        Without the space.
    """
    return [name for name in names if len(encode_text(tokenizer, f" {name}")) == 1]


def make_needle(tokenizer: PreTrainedTokenizerFast, names: Sequence[str]) -> Needle:
    """Put sentences and names into tokens.

    Parameters
    ----------
    tokenizer
        The model's.
    names
        At least two different ones, each a single token.

    Raises
    ------
    ValueError
        Where they are not.
    """
    unknown = [name for name in names if name not in known_names(tokenizer, names)]
    if unknown or len(set(names)) < 2:
        raise ValueError(
            f"names is {list(names)}, but a needle needs two or more, each a single token: "
            + (f"{', '.join(unknown)} is none" if unknown else "give another")
        )
    ids = [encode_text(tokenizer, f" {name}")[0] for name in dict.fromkeys(names)]
    first, second = (encode_text(tokenizer, sentence) for sentence in SENTENCES)
    return Needle((first, second), encode_text(tokenizer, CLOSE), np.array(ids, dtype=np.int64))


def ask_needles(
    model: PreTrainedModel,
    needle: Needle,
    windows: NDArray[np.integer],
    documents: ArrayLike,
    *,
    distances: Sequence[int],
    times: Sequence[int] = (1,),
    batch_size: int = 32,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Ask a model, of two names that stand in real text, which one belongs into a sentence that it has read.

    Parameters
    ----------
    model
        Any causal language model that takes ``logits_to_keep``.
    needle
        Sentences and names. Of each window two names are drawn that it does not hold.
    windows
        Held-out ids (N, T). Each makes four texts: names exchanged or not, either sentence first.
    documents
        The document, or group of documents, of each window (N,).
    distances
        Tokens of other text between the sentences and the question.
    times
        How often both sentences are said, one round behind the other. What does not fit into T tokens is left out.
    batch_size
        Texts at once.
    seed
        Of the names.
    device
        Where to score; the model's own device where omitted.

    Returns
    -------
    pandas.DataFrame
        One row for each of ``times`` and distance: ``times``, ``distance``, ``margin`` (log-probability of the right
        name less that of the other, nats) with ``margin_low`` and ``margin_high``, ``right`` (share of texts in which
        the right one is likelier; a tie is half) with ``right_low`` and ``right_high`` (95 %, over documents; empty
        with a single one), ``texts``. No rows where nothing fits.

    Raises
    ------
    ValueError
        Where windows and documents do not agree, a distance or number of times is below one, or no window is left
        that does not hold the names itself.
    NonFiniteScoreError
        Where a log-probability is no number.
    """
    ids, owners = np.asarray(windows).astype(np.int64), np.asarray(documents)
    if ids.ndim != 2 or owners.shape != ids.shape[:1]:
        raise ValueError(f"windows must be (N, T) with a document each, got {ids.shape} and {owners.shape}")
    if not distances or not times or min(*distances, *times) < 1:
        raise ValueError(f"distances {list(distances)} and times {list(times)} must be some, each at least one")
    drawn = _draw(needle, ids, seed)
    if not drawn:
        raise ValueError("every window holds all of the names but one itself: give more names, or other windows")
    chosen = owners[list(drawn)]
    rows = []
    with scoring(model, device) as place:
        for often in times:
            for distance in distances:
                if needle.text_tokens(distance, often) > ids.shape[1]:
                    continue
                margins = _margins(model, needle, ids, drawn, distance, often, batch_size, place)
                right = (margins > 0) + CHANCE * (margins == 0)
                rows.append(
                    {
                        "times": often,
                        "distance": distance,
                        **document_interval(margins.mean(1), chosen).columns("margin"),
                        **document_interval(right.mean(1), chosen).columns("right"),
                        "texts": margins.size,
                    }
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def solves(row: pd.Series) -> bool:
    """Tell whether a model finds the needle: the right name is likelier, and is chosen more often than by chance.

    With many texts a margin of a thousandth of a nat is told from zero, and changes no choice.

    Parameters
    ----------
    row
        Of `ask_needles`.
    """
    margin, right = (
        Interval(row[name], row[f"{name}_low"] - chance, row[f"{name}_high"], int(row["texts"]))
        for name, chance in (("margin", 0.0), ("right", CHANCE))
    )
    return can_tell(margin) and can_tell(right)


def _draw(needle: Needle, windows: NDArray[np.int64], seed: int) -> dict[int, NDArray[np.int64]]:
    """Draw two names (2,) for each window, by its index, that do not stand in it; the same whatever is asked."""
    generator = np.random.default_rng(seed)
    drawn = {}
    for index, window in enumerate(windows):
        names = generator.permutation(needle.names)
        absent = names[~np.isin(names, window)]
        if len(absent) > 1:
            drawn[index] = absent[:2]
    return drawn


def _margins(
    model: PreTrainedModel,
    needle: Needle,
    windows: NDArray[np.int64],
    drawn: dict[int, NDArray[np.int64]],
    distance: int,
    times: int,
    batch_size: int,
    device: torch.device,
) -> NDArray[np.float64]:
    """Log-probability of the right name less that of the other (windows, 4), nats."""
    found = np.empty(len(drawn) * TEXTS_A_WINDOW)
    # The two sentences may differ in length: texts of one length go together.
    texts = list(_texts(needle, windows, drawn, distance, times))
    for length in sorted({len(text) for text, _ in texts}):
        places = [place for place, (text, _) in enumerate(texts) if len(text) == length]
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            ids = torch.from_numpy(np.array([texts[place][0] for place in part])).to(device)
            names = torch.from_numpy(np.array([texts[place][1] for place in part])).to(device)
            logits = model(ids, use_cache=False, logits_to_keep=1).logits[:, -1].double()
            chosen = logits.log_softmax(-1).gather(1, names)
            refuse_non_finite(chosen)
            found[part] = (chosen[:, 0] - chosen[:, 1]).cpu().numpy()
    return found.reshape(-1, TEXTS_A_WINDOW)


def _texts(
    needle: Needle, windows: NDArray[np.int64], drawn: dict[int, NDArray[np.int64]], distance: int, times: int
) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
    """Give four texts a window, each with the right name and the other one (2,); every other window asks the second."""
    for index, names in drawn.items():
        fill = windows[index].tolist()
        asked, rest = needle.sentences if index % 2 == 0 else needle.sentences[::-1]
        for right, other in (names, names[::-1]):
            said = [[*asked, int(right), *needle.close], [*rest, int(other), *needle.close]]
            for first, second in (said, said[::-1]):
                text = [*fill[:LEAD], *(first + second) * times, *fill[LEAD : LEAD + distance], *asked]
                yield text, np.array([right, other])

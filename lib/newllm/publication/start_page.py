"""The page that ``newllm start`` opens: what is published, how a run of one's own goes, and what came of it.

Everything is in the file and nothing is fetched. It is written again and again while models are trained; it asks the
browser to read it again until it is done.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from newllm.publication.templates import page_template

TEMPLATE = "start.html"
READ_AGAIN_SECONDS = 3


@dataclass(frozen=True)
class Method:
    """A method of the published picture: its arm, what it keeps in a sentence, and how well it predicts."""

    arm: str
    keeps: str
    kv_bytes_per_token: float
    bits_per_byte: float


@dataclass(frozen=True)
class Progress:
    """Where an arm stands while it is trained: its stage, the share that is over, losses and time left, in words."""

    arm: str
    stage: str
    share: float
    numbers: str
    left: str


@dataclass(frozen=True)
class Spoken:
    """A continuation, piece by piece, and the bytes that the cache holds after each.

    Attributes
    ----------
    prompt
        What was continued.
    pieces
        Text of each token.
    cache_bytes
        Bytes in the real cache after each of them.
    """

    prompt: str
    pieces: tuple[str, ...]
    cache_bytes: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """What came of an arm: measured bytes, perplexity, a verdict in words, and what it says."""

    arm: str
    keeps: str
    kv_bytes_per_token: float
    perplexity: float
    bits_per_byte: float
    verdict: str
    spoken: Spoken | None


@dataclass(frozen=True)
class StartPage:
    """All that the page shows; what is not known yet is empty.

    Attributes
    ----------
    state
        What is going on, in a sentence.
    is_done
        Whether nothing more will change.
    progress
        The arms that are trained.
    results
        What came of them.
    floor
        How a table of counts predicts the same text, in words.
    published
        What the template ``picture.html`` draws, with name and rows; None until it is read.
    methods
        The methods in the picture.
    first_picture
        A PNG that stands where the picture will be.
    calculator
        Bytes of one sequence by size, model and tokens, for the sliders; None until they are known.
    paths
        What can be opened, by what it is.
    commands
        What to do next, by what it is for.
    """

    state: str
    is_done: bool = False
    progress: tuple[Progress, ...] = ()
    results: tuple[Result, ...] = ()
    floor: str = ""
    published: dict[str, Any] | None = None
    methods: tuple[Method, ...] = ()
    first_picture: Path | None = None
    calculator: dict[str, Any] | None = None
    paths: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)


def render(page: StartPage) -> str:
    """Write the page as HTML; every text is escaped."""
    picture = page.first_picture
    encoded = base64.b64encode(picture.read_bytes()).decode() if picture is not None and picture.is_file() else ""
    return page_template(TEMPLATE, number=_number).render(
        page=page,
        first_picture=encoded,
        spoken=[None if result.spoken is None else asdict(result.spoken) for result in page.results],
        read_again_seconds=READ_AGAIN_SECONDS,
    )


def verdict(share: float, difference: Sequence[float] | None) -> str:
    """Say in words what an arm's smaller cache costs.

    Parameters
    ----------
    share
        Its bytes a token, of those of the baseline.
    difference
        Its loss less the baseline's, in nats a token, with the ends of its 95 % interval; None for the baseline itself.
    """
    if difference is None:
        return "the baseline, which keeps everything"
    mean, low, high = difference
    if math.isnan(mean):
        cost = "and no difference was taken"
    elif low == high:
        cost = f"a difference of {mean:+.3f} nats a token, which so little text cannot judge"
    elif low > 0:
        cost = f"in this run it predicts worse by {mean:.3f} nats a token [{low:.3f}, {high:.3f}]"
    elif high < 0:
        cost = f"in this run it predicts better by {-mean:.3f} nats a token [{-high:.3f}, {-low:.3f}]"
    else:
        cost = f"no loss found at this budget ({mean:+.3f} nats a token [{low:+.3f}, {high:+.3f}])"
    return f"{_share(share)} of the bytes, {cost}"


def _share(share: float) -> str:
    """Write a share as a reader says it."""
    words = {1.0: "all", 0.5: "half", 0.25: "a quarter", 0.125: "an eighth", 0.0625: "a sixteenth"}
    near = min(words, key=lambda known: abs(known - share))
    return words[near] if abs(near - share) < 0.01 * near else f"{share:.1%}"


def _number(value: float, pattern: str) -> str:
    return "" if value is None or value != value else pattern.format(value)

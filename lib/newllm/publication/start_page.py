"""The page that ``newllm start`` opens: what is published, how a run of one's own goes, and what came of it.

Everything is in the file and nothing is fetched. It is written again and again while models are trained; it asks the
browser to read it again until it is done.
"""

import base64
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from newllm.publication.templates import page_template
from newllm.wording import breakable, number

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
        What the template ``picture.html`` draws, with name and rows, and ``narrow``, the same for a narrow window; None
        until it is read.
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
    return page_template(TEMPLATE, number=number, breakable=breakable).render(
        page=page,
        first_picture=encoded,
        spoken=[None if result.spoken is None else asdict(result.spoken) for result in page.results],
        read_again_seconds=READ_AGAIN_SECONDS,
    )

"""How the project says things: durations, and what somebody may have meant who wrote an unknown name."""

import difflib
import re
from collections.abc import Iterable

from markupsafe import Markup


def describe_seconds(seconds: float) -> str:
    """Return a duration as a reader says it: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def count(number: int, thing: str) -> str:
    """Return so many of a thing: ``1 trial``, ``2 trials``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def first_line(error: BaseException) -> str:
    """Return what an error says in its first line; the name of its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def breakable(name: str) -> Markup:
    """Write the name of an arm for a page: a long one may go on in the next line behind what joins its parts."""
    return Markup("<wbr>").join(re.split(r"(?<=[@,=])", name))


def escape_control_characters(text: str) -> str:
    r"""Write characters that would move a terminal's cursor, or colour it, as ``\x1b``: models write any of them."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like this one, of equals the one of the same letters; None where none is."""

    def likeness(other: str) -> tuple[float, bool]:
        return difflib.SequenceMatcher(None, other, name).ratio(), sorted(other) == sorted(name)

    return max(difflib.get_close_matches(name, list(known)), key=likeness, default=None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return what a sentence adds, in brackets, behind an unknown name; nothing where no known name is like it."""
    close = closest(name, known)
    return "" if close is None else f" (did you mean {close!r}?)"

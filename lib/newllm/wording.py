"""How the project says things: durations, numbers with their intervals, and what an unknown name may have meant."""

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any, Protocol

from markupsafe import Markup


class Row(Protocol):
    """What has values by name, as a mapping and a row of a data frame have."""

    def get(self, name: Any, /) -> Any:
        """Return the value of this name; None where there is none."""


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


def number(value: Any, pattern: str) -> str:
    """Format a number; what was not measured is empty."""
    return pattern.format(value) if _is_known(value) else ""


def _is_known(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def plus_minus(row: Row, name: str, pattern: str) -> str:
    """Write a mean with half of its 95 % interval, where there is one: ``95.3 ± 1.2``.

    Parameters
    ----------
    row
        Of a table, such as one of `newllm.analysis.summary.summarize_arms`.
    name
        The measure; its interval is ``name_low`` and ``name_high``.
    pattern
        How both numbers are formatted.
    """
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    mean = number(row.get(name), pattern)
    if not (mean and _is_known(low) and _is_known(high)):
        return mean
    return f"{mean} ± {pattern.replace('+', '').format((high - low) / 2)}"


def with_interval(row: Row, name: str, digits: int = 3) -> str:
    """Write a difference with its 95 % interval, where there is one: ``+0.012 [-0.003, +0.027]``."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    mean = number(row.get(name), f"{{:+.{digits}f}}")
    known = mean and _is_known(low) and _is_known(high)
    return f"{mean} [{low:+.{digits}f}, {high:+.{digits}f}]" if known else mean


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

"""What somebody may have meant who wrote a name that is not known."""

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like this one; None where none is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return what a sentence adds, in brackets, behind an unknown name; nothing where no known name is like it."""
    close = closest(name, known)
    return "" if close is None else f" (did you mean {close!r}?)"

"""Values as people write them, in files and on the command line: one reader for all places.

It reads YAML 1.2's core schema through PyYAML's parser. PyYAML's own values are YAML 1.1's, where ``1e-4`` is a string,
``010`` is eight, ``1:30`` is ninety, ``no`` is false and ``2020-01-01`` a date, and the second of two equal keys wins.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# Deeper than any parameter, and far from Python's own limit.
DEEPEST = 20

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_REAL = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NAMED = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    ".inf": float("inf"),
    "-.inf": float("-inf"),
    ".nan": float("nan"),
}
# A text that is read as itself wherever it stands, in brackets or out of them.
_PLAIN = re.compile(r"[A-Za-z0-9._/~][A-Za-z0-9._/~+-]*")
_OPENING, _CLOSING = "[{", "]}"


class ValueFormatError(ValueError):
    """A text that is no value; the message is the part of a sentence that says why."""


def read_number(text: str) -> int | float:
    """Read a decimal number, such as ``3``, ``0.5`` or ``1e-4``.

    Raises
    ------
    ValueFormatError
        For whatever else, such as ``010``, ``1_000`` or ``0x10``, which mean different things in different places.
    """
    if _INTEGER.fullmatch(text) and len(text) < 300:
        return int(text)
    if _REAL.fullmatch(text):
        return float(text)
    raise ValueFormatError("it is not a decimal number such as 3, 0.5 or 1e-4")


def read_scalar(text: str) -> Any:
    """Read what stands between commas: null, true, false, a decimal number, or else the text itself."""
    if text in _NAMED:
        return _NAMED[text]
    try:
        return read_number(text)
    except ValueFormatError:
        return text


def read_value(text: str) -> Any:
    """Read a value of one line: a scalar, ``[a, b]`` or ``{key: value}``.

    An item of a list may hold brackets of its own behind its first letter, as arms do:
    ``[pythia, context-kv@context_dims=[256,128]]`` are two items.

    Raises
    ------
    ValueFormatError
        Where brackets or quotes are not closed, or lie too deep in one another.
    """
    text = text.strip()
    if text.startswith("[") and text.endswith("]") and _depth_is_right(text):
        return [read_value(item) for item in split_items(text[1:-1])]
    return _parse(text) if text[:1] in ("[", "{", '"', "'") else read_scalar(text)


def write_value(value: Any) -> str:
    """Write a value so that `read_value` reads it back: a scalar, or lists and mappings of such.

    Texts have quotes only where they need them.
    """
    match value:
        case list() | tuple():
            return f"[{','.join(map(write_value, value))}]"
        case dict():
            return f"{{{', '.join(sorted(f'{key}: {write_value(item)}' for key, item in value.items()))}}}"
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
        case str() if not _PLAIN.fullmatch(value) or not isinstance(read_scalar(value), str):
            return _quoted(value)
        case _:
            return str(value)


def _quoted(text: str) -> str:
    letters = (letter if letter.isprintable() and letter not in '"\\' else f"\\U{ord(letter):08x}" for letter in text)
    return f'"{"".join(letters)}"'


def split_items(text: str) -> list[str]:
    """Cut a text at its commas, but not within brackets or quotes; a last empty item is left out.

    Raises
    ------
    ValueFormatError
        Where brackets or quotes are not closed.
    """
    items, start, depth, quote, before = [], 0, 0, "", ","
    for place, letter in enumerate(text):
        # A quote opens where a value begins: an apostrophe within a word is a letter.
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and before in "[{,:=":
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and depth == 0:
            items.append(text[start:place].strip())
            start = place + 1
        before = before if letter.isspace() else letter
        if not 0 <= depth <= DEEPEST:
            raise ValueFormatError("its brackets do not match" if depth < 0 else "it has too many brackets")
    if quote or depth:
        raise ValueFormatError("a quote is not closed" if quote else "its brackets do not match")
    last = text[start:].strip()
    return [*items, last] if last else items


def _depth_is_right(text: str) -> bool:
    """Whether the first bracket is closed by the last one; ``[a], [b]`` is no list."""
    depth = 0
    for letter in text[:-1]:
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if depth == 0:
            return False
    return True


def read_file(path: Path) -> dict[str, Any]:
    """Read a file of ``key: value`` lines.

    Parameters
    ----------
    path
        A YAML file, in UTF-8.

    Raises
    ------
    ValueFormatError
        In one sentence that names the file: where it cannot be read, is no YAML or no mapping, gives a key twice, or
        has tags, anchors or aliases, which no parameter needs.
    """
    try:
        content = _parse(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueFormatError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from None
    except OSError as error:
        raise ValueFormatError(f"{path} cannot be read ({error.strerror}).") from None
    except ValueFormatError as error:
        raise ValueFormatError(f"{path} is not plain YAML: {error}.") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueFormatError(f"{path} must be a list of `key: value` lines.")
    return content


def _parse(text: str) -> Any:
    """Read a whole YAML document."""
    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        values = [_construct(event, events, 0) for event in events if isinstance(event, yaml.NodeEvent)]
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueFormatError(f"{error.problem or error.context}{where}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets Python's own errors through: an escape beyond Unicode is a ValueError.
        raise ValueFormatError(str(error).splitlines()[0]) from None
    if len(values) > 1:
        raise ValueFormatError("it holds several documents")
    return values[0] if values else None


def _construct(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Any:
    assert event.start_mark is not None
    line = f"in line {event.start_mark.line + 1}"
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise ValueFormatError(f"anchors and aliases are not read ({line})")
    tag = getattr(event, "tag", None)
    if tag is not None:
        raise ValueFormatError(f"the tag {tag} is not read ({line})")
    if depth > DEEPEST:
        raise ValueFormatError(f"it has too many brackets or levels ({line})")
    if isinstance(event, yaml.ScalarEvent):
        return read_scalar(event.value) if event.style is None else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        return list(_children(events, depth))
    return _mapping(list(_children(events, depth)), line)


def _children(events: Iterator[yaml.Event], depth: int) -> Iterator[Any]:
    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            return
        yield _construct(event, events, depth + 1)


def _mapping(flat: list[Any], line: str) -> dict[Any, Any]:
    """Make a mapping of keys and values in turn."""
    mapping: dict[Any, Any] = {}
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        if isinstance(key, list | dict):
            raise ValueFormatError(f"a key is a list or a mapping ({line})")
        if key in mapping:
            raise ValueFormatError(f"the key {key} is given twice ({line})")
        mapping[key] = value
    return mapping

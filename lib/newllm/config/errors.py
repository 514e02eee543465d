"""What is wrong with a parameter, in one sentence: the key, its value and what is allowed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from newllm.config.values import read_scalar
from newllm.wording import closest


class ParameterError(ValueError):
    """A parameter that cannot be used; every line of the message is one sentence about one key."""


# More than so many do not tell what was meant.
MOST_MEANT = 5


def nearest(key: str, known: Sequence[str]) -> str:
    """Return how a sentence about an unknown name ends: with the nearest known one, or with all of them."""
    close = closest(key, known)
    return f"; there are {', '.join(known)}." if close is None else f"; did you mean {close}?"


def nearest_parameter(key: str, kinds: Sequence[type[BaseModel]]) -> str:
    """Return how a sentence about an unknown parameter ends: as `nearest`, or with those described by its words.

    So ``learning_rate`` is told ``lr``, the learning rate of main training.

    Parameters
    ----------
    key
        The unknown name.
    kinds
        The classes whose fields are known.
    """
    described = {name: field.description or "" for kind in kinds for name, field in kind.model_fields.items()}
    words = re.escape(key.replace("_", " ").strip())
    if closest(key, described) is None and len(words) > 1:
        first, any_place = (
            [name for name, text in described.items() if re.search(rf"{start}{words}\b", text, re.IGNORECASE)]
            for start in ("^", r"\b")
        )
        meant = first or any_place
        if 0 < len(meant) <= MOST_MEANT:
            return f"; did you mean {' or '.join(', '.join(meant).rsplit(', ', 1))}?"
    return nearest(key, list(described))


def first_problem(error: ValidationError) -> str:
    """Return what pydantic found first, and where: for files that no user writes."""
    problem = error.errors()[0]
    where = "".join(f"{part}: " for part in problem["loc"])
    return where + problem["msg"].removeprefix("Value error, ")


def explain(
    error: ValidationError,
    kind: type[BaseModel],
    owner: str,
    given: Mapping[str, Any],
    where: str | None,
    *,
    option: str = "",
) -> str:
    """Say in one sentence a line what pydantic found: the key, its value and what is allowed.

    Parameters
    ----------
    error
        What validation raised.
    kind
        The class that was to be made.
    owner
        What the keys are parameters of, as a reader knows it.
    given
        What the user gave beside the file.
    where
        The file that the other values come from; None where there is none.
    option
        The option that gives a value too, such as ``-p``, if there is one.
    """
    sentences = [_sentence(dict(problem), kind, owner, given, where, option) for problem in error.errors()]
    return "\n".join(dict.fromkeys(sentences))


def _sentence(
    problem: dict[str, Any], kind: type[BaseModel], owner: str, given: Mapping[str, Any], where: str | None, option: str
) -> str:
    message = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    if not problem["loc"]:  # a rule about several keys, which names them itself
        return f"{message}."
    key = str(problem["loc"][0])
    origin = "" if key in given or where is None else f" (in {where})"
    if problem["type"] == "extra_forbidden":
        return f"{key} is not a parameter of {owner}{origin}{nearest_parameter(key, [kind])}"
    if problem["type"] == "missing":
        described = kind.model_fields[key].description
        what = f" is {described} and" if described else ""
        places = ([f"in {where}"] if where else []) + ([f"with {option} {key}=<value>"] if option else [])
        return f"{key}{what} has no default; give it a value {' or '.join(places)}."
    message = re.sub(r"^\w+ should", "it must", message).replace(" after validation", "")
    return f"{key} is {_shown(problem['input'])}{origin}, but {message}."


def _shown(value: Any) -> str:
    """Write a value as it was given: a number that came as a text has no quotes."""
    is_other = isinstance(value, str) and value != "" and not isinstance(read_scalar(value), str)
    return value if is_other else repr(value)

"""The page of the documentation site that lists every parameter, made from the parameters' own classes and profiles."""

import inspect
import json
import re
from functools import cache
from typing import Any

import pandas as pd
import yaml
from pydantic.fields import FieldInfo

from newllm.config.notebooks import NOTEBOOKS
from newllm.config.profiles import notebooks_of, profile_path, profiles
from newllm.publication.markdown import markdown_table

_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "none"}

# A cell with more values than these is not read.
MOST_VALUES = 4

_HEAD = """\
---
hide: [navigation]
---

# Parameters

Every parameter of every notebook, by what it is about. One name means the same thing everywhere: in the parameters
cell of a notebook, in `params/`, behind `newllm run -p` and `papermill -p`. A value that is not given is the profile's,
and where the profile says nothing it is the default. Names and values that cannot be are refused before anything is
trained. A number such as 02 is that of a notebook.
"""


def parameters_page() -> str:
    """Write the page: a table for each class that defines parameters, the groups before what one notebook alone has."""
    owners: dict[type, dict[str, FieldInfo]] = {}
    for kind in NOTEBOOKS.values():
        for name, field in kind.model_fields.items():
            owners.setdefault(_owner(kind, name), {}).setdefault(name, field)
    groups = sorted(set(owners) - set(NOTEBOOKS.values()), key=lambda group: inspect.getsourcelines(group)[1])
    own = [kind for _, kind in sorted(NOTEBOOKS.items()) if kind in owners]
    return "\n".join([_HEAD, *(_section(owner, owners[owner]) for owner in (*groups, *own))])


def _owner(kind: type, name: str) -> type:
    """Return the class that defines a field."""
    return next(parent for parent in kind.__mro__ if name in inspect.get_annotations(parent))


def _section(owner: type, fields: dict[str, FieldInfo]) -> str:
    rows = [
        {
            "parameter": f"`{name}`",
            "meaning": _escaped(field.description or ""),
            "type": " ".join([_type(_schemas()[name]), *_bounds(field)]),
            "default": "" if field.is_required() else _value(field.get_default(call_default_factory=True)),
            **{profile: _by_notebook(name, profile) for profile in profiles()},
        }
        for name, field in fields.items()
    ]
    # ComparisonParameters -> Comparison parameters
    title = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", owner.__name__).capitalize()
    said = (inspect.getdoc(owner) or "").splitlines()[0]
    return f"## {title}\n\n{_escaped(said)}\n\n{markdown_table(pd.DataFrame(rows))}"


def _escaped(text: str) -> str:
    """Return a text whose brackets are neither tags nor links."""
    return text.replace("<", "&lt;").replace("[", "&#91;")


@cache
def _schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schema of every parameter; a name means the same in every notebook."""
    return {
        name: schema for kind in NOTEBOOKS.values() for name, schema in kind.model_json_schema()["properties"].items()
    }


@cache
def _stored(notebook: str, profile: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(profile_path(notebook, profile).read_text(encoding="utf-8"))
    return values


def _type(schema: dict[str, Any]) -> str:
    """Say in words what a JSON schema allows."""
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("format") == "path":
        return "path"
    return _TYPES[schema["type"]]


def _bounds(field: FieldInfo) -> list[str]:
    """Say the limits of a number; its schema does not, as the value may be written as a text."""
    return [
        f"{sign} {getattr(limit, name):,}"
        for limit in field.metadata
        for name, sign in _BOUNDS.items()
        if getattr(limit, name, None) is not None
    ]


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return f"`{json.dumps(value, default=str).strip(chr(34))}`"


def _by_notebook(name: str, profile: str) -> str:
    """Write the value that a profile gives; where notebooks differ, each value with the numbers of its notebooks."""
    found: dict[str, list[str]] = {}
    for notebook in notebooks_of(profile):
        kind, stored = NOTEBOOKS[notebook], _stored(notebook, profile)
        if name in kind.model_fields and name in stored:
            found.setdefault(_value(stored[name]), []).append(notebook.partition("_")[0])
    if len(found) == 1:
        return next(iter(found))
    if len(found) > MOST_VALUES:
        return "another in each notebook"
    return "<br>".join(f"{value} in {', '.join(sorted(numbers))}" for value, numbers in found.items())

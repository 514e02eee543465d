"""The names of the methods, without importing them: that takes seconds, and a name is checked before anything else."""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

METHODS_FOLDER = Path(__file__).parents[1] / "models" / "methods"

# What the name of an arm begins with that is a trained model; its folder, or its hub id, comes behind.
CHECKPOINT = "checkpoint:"

# The functions that put a model into the registry; the name is their first argument.
REGISTERING = ("register", "preset")


def method_of(arm: str, names: Iterable[str]) -> str | None:
    """Return the method that an arm's name begins with; None where it begins with none.

    Names may hold hyphens themselves ("context-kv"), so the longest name that fits is the method.
    """
    body = arm.partition("@")[0].strip()
    return max((name for name in names if body == name or body.startswith(f"{name}-")), key=len, default=None)


@cache
def method_names() -> tuple[str, ...]:
    """Return the names under which the files of ``models/methods`` register models, in alphabetical order."""
    files = [ast.parse(path.read_bytes()) for path in METHODS_FOLDER.glob("*.py")]
    calls = [node for file in files for node in ast.walk(file) if isinstance(node, ast.Call)]
    named = [
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id in REGISTERING
        and call.args
        and isinstance(call.args[0], ast.Constant)
    ]
    return tuple(sorted(map(str, named)))

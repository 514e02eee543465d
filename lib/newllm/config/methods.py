"""The names of the methods, without importing them: that takes seconds, and a name is checked before anything else."""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

METHODS_FOLDER = Path(__file__).parents[1] / "models" / "methods"

# What the name of an arm begins with that is a trained model; its folder, or its hub id, comes behind.
CHECKPOINT_PREFIX = "checkpoint:"

# The functions that put a model into the registry; the name is their first argument.
REGISTERING = ("register", "preset")


def method_of(arm: str, names: Iterable[str]) -> str | None:
    """Return the method that an arm's name begins with; None where it begins with none.

    Names may hold hyphens themselves ("context-kv"), so the longest name that fits is the method.
    """
    body = arm.partition("@")[0].strip()
    return max((name for name in names if body == name or body.startswith(f"{name}-")), key=len, default=None)


@cache
def _nodes() -> list[ast.AST]:
    """Return every node of the files of ``models/methods``."""
    return [node for path in METHODS_FOLDER.glob("*.py") for node in ast.walk(ast.parse(path.read_bytes()))]


@cache
def method_names() -> tuple[str, ...]:
    """Return the names under which the files of ``models/methods`` register models, in alphabetical order."""
    calls = [node for node in _nodes() if isinstance(node, ast.Call)]
    named = [
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id in REGISTERING
        and call.args
        and isinstance(call.args[0], ast.Constant)
    ]
    return tuple(sorted(map(str, named)))


@cache
def model_types() -> tuple[str, ...]:
    """Return the ``model_type`` of every config class in those files: what a ``config.json`` names its model by."""
    return tuple(
        sorted(
            str(node.value.value)
            for node in _nodes()
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and [target.id for target in node.targets if isinstance(target, ast.Name)] == ["model_type"]
        )
    )

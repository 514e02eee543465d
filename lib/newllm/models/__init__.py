"""The models, by name: ``names()``, ``sizes()``, ``create(name, size, **overrides)``."""

import importlib
import pkgutil

from newllm.models.registry import configure, create, find, names, sizes

# Importing a model file registers what it defines, so a new method is a new file and no other edit.
for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

__all__ = ["configure", "create", "find", "names", "sizes"]

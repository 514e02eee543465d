"""How transformers' Auto classes come to know newllm's models as soon as newllm is imported.

Importing the models takes seconds, which no command and no first cell of a notebook should wait for. So they are only
announced: under each model's type stands a class that imports them when a checkpoint of theirs is first read.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from newllm.config.methods import model_types

CONFIGURATIONS = "transformers.models.auto.configuration_auto"


class AnnouncedConfig:
    """Stands for the configuration of a model until one of that type is asked for."""

    model_type: str

    @classmethod
    def real(cls) -> Any:
        """Import all models, which registers them, and return the config class of this type."""
        importlib.import_module("newllm.models")
        return sys.modules[CONFIGURATIONS].CONFIG_MAPPING[cls.model_type]

    def __new__(cls, *arguments: Any, **fields: Any) -> Any:
        """Return a configuration of the real class."""
        return cls.real()(*arguments, **fields)

    @classmethod
    def from_dict(cls, fields: dict[str, Any], **others: Any) -> Any:
        """Return what the real class makes of the fields of a ``config.json``."""
        return cls.real().from_dict(fields, **others)


def announce(configurations: ModuleType) -> None:
    """Put an `AnnouncedConfig` under every type of model that the module of AutoConfig does not know yet."""
    for model_type in model_types():
        if model_type not in configurations.CONFIG_MAPPING:
            announced = type("AnnouncedConfig", (AnnouncedConfig,), {"model_type": model_type})
            configurations.AutoConfig.register(model_type, announced)


class AnnouncingFinder(MetaPathFinder):
    """Finds the module of AutoConfig as Python does, and announces the models once it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find that one module, once; all others are left to the finders behind."""
        if fullname != CONFIGURATIONS:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_announce(module: ModuleType) -> None:
            execute(module)
            announce(module)

        spec.loader.exec_module = execute_and_announce  # type: ignore[method-assign]
        return spec


def announce_models() -> None:
    """Announce newllm's models to transformers, now if it has its Auto classes already, else when it comes to them."""
    if CONFIGURATIONS in sys.modules:
        announce(sys.modules[CONFIGURATIONS])
    else:
        sys.meta_path.insert(0, AnnouncingFinder())

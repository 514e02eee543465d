"""The models, by name: ``names()``, ``sizes()``, ``create(name, size, **overrides)``."""

from newllm.models.registry import configure, create, find, names, sizes

# isort: split
from newllm.models import methods as methods  # registers every method
from newllm.models.methods.pythia import PythiaModel
from newllm.models.position import PositionEncodingConfig

# The one whose position encoding can be chosen is the baseline itself.
UnifiedPythiaModel = PythiaModel

__all__ = ["PositionEncodingConfig", "UnifiedPythiaModel", "configure", "create", "find", "names", "sizes"]

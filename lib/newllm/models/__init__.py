"""The models, by name: ``names()``, ``sizes()``, ``create(name, size, **overrides)``."""

"""A workbench for language models that keep a smaller KV cache."""

from newllm.auto_classes import announce_models

announce_models()

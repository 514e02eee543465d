"""A workbench for language models that keep a smaller KV cache."""

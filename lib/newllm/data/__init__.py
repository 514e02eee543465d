"""Real text, split by document, as windows of tokens."""

from newllm.data.preparation import NotEnoughTextError, TextData, prepare_data, prepare_data_loaders
from newllm.data.windows import TokenWindows

__all__ = ["NotEnoughTextError", "TextData", "TokenWindows", "prepare_data", "prepare_data_loaders"]

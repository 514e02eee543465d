"""How a trial was trained, said in words: its text, how much of it, and at which rates."""

from collections.abc import Mapping
from typing import Any

from newllm.config.fields import ADAMW


def text_in_words(parameters: Mapping[str, Any]) -> str:
    """Say which text a trial read: its source, windows and their length."""
    return f"{parameters['source']}, {parameters['samples']} windows of {parameters['seq_length']}"


def budget_text(parameters: Mapping[str, Any]) -> str:
    """Say what a trial was trained with: the tokens of its text, passes over them, and its learning rates.

    Parameters
    ----------
    parameters
        Those of a record: only a trial that learned from one continuous stream has the rate of that, and where there
        was no main training, as in notebook 01, there is nothing to say.
    """
    if "epochs" not in parameters:
        return ""
    samples, length, passes = (parameters[name] for name in ("samples", "seq_length", "epochs"))
    text = "all text" if isinstance(samples, str) else f"{samples * length / 1000:,.0f} k tokens"
    of_passes = "one pass" if passes == 1 else f"{passes} passes"
    return f"{text}, {of_passes}, rate{'' if parameters['matrix_lr'] == ADAMW else 's'} {rates_text(parameters)}"


def rates_text(parameters: Mapping[str, Any]) -> str:
    """Say at which learning rates a trial was trained: of AdamW, and of Muon where it took the matrices.

    Parameters
    ----------
    parameters
        As `budget_text` takes them.
    """
    rate, of_matrices = parameters.get("stream_lr", parameters["lr"]), parameters["matrix_lr"]
    return f"{rate:g}" if of_matrices == ADAMW else f"{rate:g} and, for matrices by Muon, {of_matrices:g}"

"""The experiment of notebook 06: what a decoding step costs, ours beside transformers', as the context grows."""

import functools
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from newllm.config.notebooks import LatentAttention
from newllm.evaluation.decoding import compare_decoding
from newllm.models import create
from newllm.models.stock import deepseek_like, gpt_neox_like
from newllm.runs.folder import Run
from newllm.runs.parts import Part, do_part
from newllm.runtime import choose_device

DECIDING = ("decode_size", "decode_contexts", "decode_steps", "decode_prefill", "device")
ABSORBED, EXPANDED = "mla, absorbed", "mla, expanded"


def time_latent_decoding(parameters: LatentAttention, folder: Path) -> pd.DataFrame:
    """Time decoding steps of models with random weights that take turns, a part of the notebook's run.

    Parameters
    ----------
    parameters
        Size, contexts and steps.
    folder
        Of the notebook's run.

    Returns
    -------
    pandas.DataFrame
        The rows of `newllm.evaluation.decoding.compare_decoding`.
    """
    make = functools.partial(_time, parameters)
    return do_part(decoding_part(parameters), folder, make, rerun=parameters.rerun).tables["decoding"]


def decoding_part(parameters: LatentAttention) -> Part:
    """Return the part that `time_latent_decoding` does."""
    return Part("decoding", {name: parameters.identity()[name] for name in DECIDING})


def _time(parameters: LatentAttention, _: Run) -> dict[str, pd.DataFrame]:
    size, device = parameters.decode_size, choose_device(parameters.device)
    torch.manual_seed(0)
    timed: dict[str, Any] = {
        ABSORBED: create("mla", size),
        "pythia": create("pythia", size),
        "mqa": create("mqa", size),
        "context": create("context", size),
        "DeepSeek-V3": deepseek_like(size),
        EXPANDED: create("mla", size),
        "GPT-NeoX": gpt_neox_like(size),
    }
    timed[EXPANDED].attention_path = "expanded"
    table = compare_decoding(
        {name: model.to(device) for name, model in timed.items()},
        parameters.decode_contexts,
        steps=parameters.decode_steps,
        computed=parameters.decode_prefill,
    )
    return {"decoding": table}

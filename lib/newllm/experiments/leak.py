"""The experiment of a leak: the same model under the right mask and under one that shows it the future."""

import functools
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from newllm.config.notebooks import CausalMasks
from newllm.data import TextData
from newllm.evaluation.diagnosis import diagnose
from newllm.evaluation.leaks import SwappedMaskModel
from newllm.evaluation.perplexity import evaluate
from newllm.experiments.limits import refuse_endless_warmup
from newllm.experiments.steps import steps_a_pass
from newllm.models import configure
from newllm.models.language_model import LanguageModel
from newllm.models.registry import find
from newllm.runs.folder import Run
from newllm.runs.parts import Part, do_part
from newllm.runtime import choose_device
from newllm.training.main import train

RIGHT, SWAPPED = "right", "swapped"
METHOD = "unified"
MASKS: dict[str, type[LanguageModel]] = {RIGHT: find(METHOD).model_class, SWAPPED: SwappedMaskModel}


def train_with_leak(parameters: CausalMasks, data: TextData, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train under both masks: the same weights to begin with, the same text, the same budget; a part of the run each.

    Parameters
    ----------
    parameters
        Size, slope, seed and training.
    data
        The text.
    folder
        Of the notebook's run.

    Returns
    -------
    scores : pandas.DataFrame
        One row a mask: mask, perplexity, bits_per_byte, accuracy, diagnosis, and alarming: whether the perplexity alone
        gives it away.
    history : pandas.DataFrame
        mask, epoch, train_loss, validation_loss.

    Raises
    ------
    ValueError
        Where the warm-up takes all steps.
    """
    refuse_endless_warmup(parameters, steps_a_pass(parameters, len(data.train)))
    scores, histories = [], []
    for mask, part in leak_parts(parameters, data.fingerprint).items():
        make = functools.partial(_train, parameters, data, mask)
        tables = do_part(part, folder, make, rerun=parameters.rerun).tables
        scores.append(tables["scores"].assign(mask=mask))
        histories.append(tables["history"].assign(mask=mask))
    return pd.concat(scores, ignore_index=True), pd.concat(histories, ignore_index=True)


def leak_parts(parameters: CausalMasks, data: str) -> dict[str, Part]:
    """Return the parts that `train_with_leak` does on the data of a fingerprint, by mask."""
    return {mask: Part(f"leak/{mask}", parameters.identity() | {"mask": mask, "data": data}) for mask in MASKS}


def alibi_settings(parameters: CausalMasks) -> dict[str, Any]:
    """Return the overrides of the model's config that both masks share."""
    return {"position": {"type": "alibi", "alibi_slope": parameters.alibi_slope}}


def _train(parameters: CausalMasks, data: TextData, mask: str, run: Run) -> dict[str, pd.DataFrame]:
    device = choose_device(parameters.device)
    torch.manual_seed(parameters.seed)
    config = configure(METHOD, parameters.size, vocab_size=len(data.tokenizer), **alibi_settings(parameters))
    model = MASKS[mask](config)
    result = train(model, data, parameters, run.folder / "training", seed=parameters.seed, device=device)
    report = evaluate(model, data.test, device=device)
    verdict = diagnose(report.perplexity, report.bits_per_byte, model.config.vocab_size)
    scores = {
        "perplexity": report.perplexity,
        "bits_per_byte": report.bits_per_byte,
        "accuracy": report.accuracy,
        "diagnosis": verdict.message,
        "alarming": verdict.alarming,
    }
    return {"scores": pd.DataFrame([scores]), "history": pd.DataFrame(result.history)}

"""Every model at one size in one table: what it costs, what it keeps, and the proof that it is right."""

import logging
from collections.abc import Sequence

import pandas as pd
import torch

from newllm.evaluation.agreement import cached_equals_uncached
from newllm.evaluation.cache import measure
from newllm.evaluation.causality import certify
from newllm.evaluation.decoding import compare_decoding
from newllm.models import create, names
from newllm.models.language_model import LanguageModel
from newllm.models.registry import BASELINE
from newllm.progress import stage

logger = logging.getLogger(__name__)

MEASURED_TOKENS = 128


def survey(
    models: Sequence[str] | None = None,
    size: str = "70m",
    *,
    contexts: Sequence[int] = (1024, 8192),
    steps: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """Build, count, certify and time models with random weights.

    Parameters
    ----------
    models
        Names; all registered ones where omitted.
    size
        One of ``newllm.models.sizes()``.
    contexts
        Tokens of context at which decoding is timed; empty leaves timing out. Memory has to hold all models and their
        caches at once, as they are timed side by side.
    steps
        Timed tokens for each model and context.
    seed
        Of the weights.

    Returns
    -------
    DataFrame
        One row a model, widest cache first: ``model``, ``parameters``, ``values_per_token`` and ``bytes_per_token``
        (measured on the tensors of a float32 cache), ``state_bytes`` (kept whatever the length), ``formula_agrees``,
        ``saved`` (share of pythia's bytes per token), ``certificate`` (passed), ``largest_leak``, ``cache_error``
        (largest difference of cached and uncached logits in float64), and ``tokens_per_second_<context>`` each.

    Raises
    ------
    ValueError
        For an unknown name or size.
    """
    asked = list(names() if models is None else models)
    built = {name: _build(name, size, seed) for name in asked}
    baseline = measure(_build(BASELINE, size, seed), MEASURED_TOKENS).bytes_per_token
    rows = []
    with stage("measuring", len(built), "model") as told:
        for name, model in built.items():
            report = measure(model, MEASURED_TOKENS)
            certificate = certify(model)
            agreement = cached_equals_uncached(model)
            for failure in certificate.failures():
                logger.warning("%s: %s", name, failure)
            rows.append(
                {
                    "model": name,
                    "parameters": sum(parameter.numel() for parameter in model.parameters()),
                    "values_per_token": report.bytes_per_token / torch.float32.itemsize,
                    "bytes_per_token": report.bytes_per_token,
                    "state_bytes": report.state_bytes,
                    "formula_agrees": report.agrees,
                    "saved": 1 - report.bytes_per_token / baseline,
                    "certificate": certificate.passed,
                    "largest_leak": certificate.max_change,
                    "cache_error": agreement.max_error,
                }
            )
            told.advance()
            logger.info("%s is certified: %s", name, certificate.passed)
    table = pd.DataFrame(rows)
    if len(contexts):
        speeds = compare_decoding(built, contexts, steps=steps)
        wide = speeds.pivot(index="model", columns="context", values="tokens_per_second")
        table = table.join(wide.add_prefix("tokens_per_second_"), on="model")
    return table.sort_values(["bytes_per_token", "model"], ascending=[False, True], ignore_index=True)


def _build(name: str, size: str, seed: int) -> LanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create(name, size).eval()

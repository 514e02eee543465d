"""Scoring: a model, trained here or elsewhere, becomes a record, with a causality certificate or not at all."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from newllm.config.groups import EvaluationParameters, ExperimentParameters
from newllm.data import TextData
from newllm.data.tokenizers import encode_text
from newllm.evaluation.cache import measure
from newllm.evaluation.causality import certify
from newllm.evaluation.decoding import compare_decoding
from newllm.evaluation.diagnosis import diagnose
from newllm.evaluation.perplexity import PerplexityReport, evaluate, evaluate_stream
from newllm.experiments.recipes import Trained
from newllm.models.language_model import LanguageModel
from newllm.models.projection import DiverseProjection
from newllm.models.recurrent import RecurrentModel
from newllm.recurrence.convergence import effective_rank
from newllm.runs.folder import Run
from newllm.runs.record import CacheSize, CertificateResult, Continuation, Record
from newllm.runs.saved_model import check_pretrained, load_trained_model
from newllm.runtime import choose_device

logger = logging.getLogger(__name__)
EVALUATION_FILE = "evaluation.json"
HISTORY_FILE = "history.json"
PRETRAINED = "pretrained"


class CertificateError(RuntimeError):
    """A model that sees the future, or may; nothing is recorded of it."""


def score_pretrained(parameters: ExperimentParameters, data: TextData, folder: Path) -> Record:
    """Evaluate, certify and record trained weights on the same held-out windows, in float32, as a row of their own.

    Parameters
    ----------
    parameters
        ``pretrained`` names the weights: a hub id, or a folder with the model and its tokenizer.
    data
        Held-out windows.
    folder
        Holds the folders of the trials; this one's is ``pretrained``.

    Raises
    ------
    LoadingError
        Where the weights cannot be read whole, or belong to another tokenizer than the windows.
    HubUnavailableError
        The hub did not answer.
    CertificateError
        Where the model does not pass the causality certificate.
    """
    source = str(parameters.pretrained)
    run = Run(folder / PRETRAINED, parameters.identity() | {"arms": [PRETRAINED], "seeds": [0]})
    if run.is_finished:
        return run.record()
    check_pretrained(source, data.tokenizer)
    trained = load_trained_model(source)
    run.start()
    start = time.perf_counter()
    torch.nn.Module.to(trained.model, choose_device(parameters.device))
    record = score_model(run, parameters, PRETRAINED, trained.method, 0, trained.model, data, None, start)
    run.finish(record.duration_seconds, record)
    return record


def score_model(
    run: Run,
    parameters: ExperimentParameters,
    arm: str,
    method: str,
    seed: int,
    model: LanguageModel,
    data: TextData,
    trained: Trained | None,
    start: float,
) -> Record:
    """Score, certify and describe a model; write all but the record itself, which finishes the run.

    The folder of the run then holds ``evaluation.json`` (positions, window losses, diagnosis, certificate) and
    ``history.json`` (main and projection training).

    Parameters
    ----------
    run
        The run of the model, started.
    parameters
        Batch size and device, and what the record says of notebook, profile and size.
    arm, method, seed
        What the record names.
    model
        The model to score, on the device.
    data
        Held-out windows and their tokenizer.
    trained
        What its recipe did; None where it was not trained here.
    start
        `time.perf_counter` when the work on it began.

    Raises
    ------
    CertificateError
        Where the model does not pass the causality certificate.
    """
    model.eval()
    device = choose_device(parameters.device)
    report = evaluate(
        model, data.validation, batch_size=parameters.batch_size, device=device, bands=parameters.position_bands
    )
    certificate = certify(model)
    if not certificate.passed:
        raise CertificateError(f"{arm} did not pass the causality certificate: {certificate.failures()[0]}")
    diagnosis = diagnose(report.perplexity, report.bits_per_byte, model.config.vocab_size, pretrained=trained is None)
    logger.log(logging.WARNING if diagnosis.alarming else logging.INFO, "%s: %s", arm, diagnosis.message)
    run.write_json(
        EVALUATION_FILE,
        {
            "positions": report.positions.to_dict("records"),
            "window_losses": report.window_losses.tolist(),
            "diagnosis": {"verdict": diagnosis.verdict, "message": diagnosis.message},
            "certificate": certificate.as_dict(),
        },
    )
    projection = trained.projection if trained else None
    run.write_json(
        HISTORY_FILE,
        {"main": trained.main.history if trained else [], "projection": projection.history if projection else []},
    )
    return Record(
        notebook=parameters.notebook,
        profile=parameters.profile,
        arm=arm,
        method=method,
        size=parameters.size,
        seed=seed,
        parameters=run.identity,
        parameter_count=model.num_parameters(),
        metrics=_metrics(model, parameters, data, report, trained),
        cache=CacheSize.model_validate(_cache_fields(model, data.validation.seq_length)),
        certificate=CertificateResult(passed=certificate.passed, max_change=certificate.max_change),
        continuations=tuple(continue_prompts(model, data.tokenizer, parameters)),
        duration_seconds=time.perf_counter() - start,
    )


def _cache_fields(model: LanguageModel, tokens: int) -> dict[str, Any]:
    report = measure(model, tokens)
    return {name: getattr(report, name) for name in CacheSize.model_fields}


def _metrics(
    model: LanguageModel,
    parameters: ExperimentParameters,
    data: TextData,
    report: PerplexityReport,
    trained: Trained | None,
) -> dict[str, float | None]:
    """Numbers of the record; effective ranks are shares of the width, between 0 and 1."""
    device = choose_device(parameters.device)
    speed = compare_decoding({"model": model}, [parameters.timed_context], steps=parameters.timed_tokens)
    metrics: dict[str, float | None] = {
        "perplexity": report.perplexity,
        "bits_per_byte": report.bits_per_byte,
        "accuracy": report.accuracy,
        "validation_loss": report.loss,
        "decoded_tokens_per_second": speed["tokens_per_second"].item(),
    }
    if trained:
        metrics |= {
            "best_epoch": trained.main.best_epoch,
            "epochs": len(trained.main.history),
            "tokens_per_second": trained.main.tokens_per_second,
        }
    if isinstance(model, RecurrentModel):
        ranks = [effective_rank(contexts) / contexts.shape[1] for contexts in _contexts(model, data, device)]
        metrics["effective_rank"] = float(np.mean(ranks))
    if model.recipe.continuous:
        # It was trained on one continuous stream, so it is scored on one, too.
        metrics["stream_perplexity"] = evaluate_stream(model, data.validation.token_ids, device=device).perplexity
    if trained and trained.projection:
        metrics["convergence_rate"] = trained.projection.convergence_rate
    return metrics


@torch.no_grad()
def _contexts(model: RecurrentModel, data: TextData, device: torch.device) -> Iterator[Tensor]:
    """Contexts (N * T, P) of each block over the held-out windows, each window from zero, as the model is now."""
    windows = [data.validation[index]["input_ids"][:-1] for index in range(len(data.validation))]
    embeds = model.normed_embeddings(torch.stack(windows).to(device))
    for block in model.context_blocks:
        yield cast(DiverseProjection, block).unroll(embeds).flatten(0, 1)


@torch.no_grad()
def continue_prompts(
    model: LanguageModel, tokenizer: PreTrainedTokenizerFast, parameters: EvaluationParameters
) -> Iterator[Continuation]:
    """Continue the prompts greedily, so that a reader sees what the model says."""
    for prompt in parameters.prompts:
        ids = torch.tensor([encode_text(tokenizer, prompt)], device=model.device)
        generated = model.generate(  # type: ignore[misc]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=parameters.continuation_tokens,
            do_sample=False,
            # Ids beyond the tokenizer's are padding of the vocabulary and stand for no text.
            suppress_tokens=list(range(len(tokenizer), model.config.vocab_size)) or None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        yield Continuation(prompt=prompt, text=tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True))

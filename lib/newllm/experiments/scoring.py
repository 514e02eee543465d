"""Scoring: what is measured of a model, trained here or elsewhere, with a causality certificate or not at all."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from newllm.config.experiment import ExperimentParameters
from newllm.config.methods import CHECKPOINT_PREFIX
from newllm.data import TextData
from newllm.evaluation.cache import measure
from newllm.evaluation.causality import certify
from newllm.evaluation.certificate import Certificate
from newllm.evaluation.continuations import continue_prompts
from newllm.evaluation.decoding import compare_decoding
from newllm.evaluation.diagnosis import Diagnosis, diagnose
from newllm.evaluation.perplexity import PerplexityReport, evaluate, evaluate_stream
from newllm.evaluation.recall_report import RecallReport, measure_recall
from newllm.experiments.recipes import Trained
from newllm.files import local_folder
from newllm.models.language_model import LanguageModel
from newllm.models.projection import DiverseProjection
from newllm.models.recurrent import RecurrentModel
from newllm.progress import DECODING, stage
from newllm.recurrence.convergence import EFFECTIVE_RANK_ROWS, effective_rank
from newllm.runs.folder import Run
from newllm.runs.record import CacheSize, Continuation
from newllm.runtime import choose_device
from newllm.tensor_files import write_tensors

logger = logging.getLogger(__name__)
EVALUATION_FILE = "evaluation.json"
HISTORY_FILE = "history.json"
TOKEN_LOSSES = "token_losses.safetensors"

# Digits of losses in the files that people read and that are published.
LOSS_DIGITS = 6
SHOWN_DIGITS = 3
SHOWN_WINDOWS = 2
PRETRAINED = "pretrained:"


def pretrained_arm(source: str) -> str:
    """Name the row of pretrained weights: ``pretrained:`` and their hub id, or the end of their folder's path."""
    folder = local_folder(source)
    return PRETRAINED + (source if folder is None else "/".join(folder.absolute().parts[-2:]))


def is_pretrained(arm: str) -> bool:
    """Tell whether a record is of weights that were trained elsewhere."""
    return arm.startswith(PRETRAINED)


def is_loaded(arm: str) -> bool:
    """Tell whether a record is of a trained model that was scored, and not of a trial."""
    return arm.startswith((PRETRAINED, CHECKPOINT_PREFIX))


def trained_here(records: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of trials, without those of trained models that were only scored.

    Parameters
    ----------
    records
        Rows with an ``arm``; there may be none.
    """
    # Of no rows at all, the values would have no type to negate.
    return records[~records["arm"].map(is_loaded).astype(bool)]


class CertificateError(RuntimeError):
    """A model that sees the future, or may; nothing is recorded of it."""


@dataclass(frozen=True)
class Subject:
    """A model that is scored, and what its record says of it.

    Attributes
    ----------
    arm, method, seed
        What the record names.
    parameters
        Batch size and device, and what the record says of notebook, profile and size.
    model
        The model, on the device.
    trained
        What its recipe did; None where it was not trained here.
    """

    arm: str
    method: str
    seed: int
    parameters: ExperimentParameters
    model: LanguageModel
    trained: Trained | None = None


@dataclass(frozen=True)
class Scores:
    """What was found of a model.

    Attributes
    ----------
    report
        Perplexity on the test windows.
    recall
        What of the past the model uses.
    certificate
        Of causality, passed.
    diagnosis
        What the perplexity means.
    metrics
        The numbers of the record.
    cache
        Bytes that a sequence keeps.
    continuations
        Of the prompts.
    """

    report: PerplexityReport
    recall: RecallReport
    certificate: Certificate
    diagnosis: Diagnosis
    metrics: dict[str, float | None]
    cache: CacheSize
    continuations: tuple[Continuation, ...]


def score(subject: Subject, data: TextData) -> Scores:
    """Evaluate, certify and measure a model.

    Parameters
    ----------
    subject
        The model.
    data
        Test windows, the training windows and their tokenizer.

    Raises
    ------
    CertificateError
        Where the model does not pass the causality certificate.
    """
    model, parameters = subject.model.eval(), subject.parameters
    device = choose_device(parameters.device)
    report = evaluate(
        model, data.test, batch_size=parameters.batch_size, device=device, bands=parameters.position_bands
    )
    certificate = certify(model)
    if not certificate.passed:
        raise CertificateError(f"{subject.arm} did not pass the causality certificate: {certificate.failures()[0]}")
    diagnosis = diagnose(
        report.perplexity, report.bits_per_byte, model.config.vocab_size, pretrained=subject.trained is None
    )
    if diagnosis.alarming:
        logger.warning("%s: %s", subject.arm, diagnosis.message)
    recall = measure_recall(model, data, report.token_losses, parameters)
    with stage(DECODING, 3) as told:
        metrics = _metrics(subject, data, report) | recall.metrics()
        told.advance()
        cache = CacheSize.model_validate(_cache_fields(model, data.test.seq_length))
        told.advance()
        continuations = tuple(
            Continuation(prompt=prompt, text=text)
            for prompt, text in continue_prompts(model, data.tokenizer, parameters)
        )
    return Scores(
        report=report,
        recall=recall,
        certificate=certificate,
        diagnosis=diagnosis,
        metrics=metrics,
        cache=cache,
        continuations=continuations,
    )


def write_scores(subject: Subject, scores: Scores, data: TextData, run: Run) -> None:
    """Write what a record does not hold into the folder of a run.

    It then holds ``evaluation.json`` (positions; the mean loss of each test window and its document group; the loss of
    each token of the first windows; recall; diagnosis; certificate), ``token_losses.safetensors`` (losses (N, T) of all
    tokens in half precision) and ``history.json`` (main and projection training).
    """
    report = scores.report
    run.write_json(
        EVALUATION_FILE,
        {
            "positions": report.positions.to_dict("records"),
            "window_losses": report.window_losses.round(LOSS_DIGITS).tolist(),
            "window_groups": data.test.document_groups.tolist(),
            "first_windows": report.token_losses[:SHOWN_WINDOWS].round(SHOWN_DIGITS).tolist(),
            "recall": scores.recall.as_dict(),
            "diagnosis": {"verdict": scores.diagnosis.verdict, "message": scores.diagnosis.message},
            "certificate": scores.certificate.as_dict(),
        },
    )
    write_tensors(run.folder / TOKEN_LOSSES, {"losses": torch.from_numpy(report.token_losses).half()})
    trained = subject.trained
    projection = trained.projection if trained else None
    run.write_json(
        HISTORY_FILE,
        {"main": trained.main.history if trained else [], "projection": projection.history if projection else []},
    )


def _cache_fields(model: LanguageModel, tokens: int) -> dict[str, Any]:
    report = measure(model, tokens)
    return {name: getattr(report, name) for name in CacheSize.model_fields}


def _metrics(subject: Subject, data: TextData, report: PerplexityReport) -> dict[str, float | None]:
    """Numbers of the record; effective ranks are shares of ``block_width``, that of a context, between 0 and 1."""
    model, parameters, trained = subject.model, subject.parameters, subject.trained
    device = choose_device(parameters.device)
    speed = compare_decoding({"model": model}, [parameters.timed_context], steps=parameters.timed_tokens)
    metrics: dict[str, float | None] = {
        "perplexity": report.perplexity,
        "bits_per_byte": report.bits_per_byte,
        "accuracy": report.accuracy,
        "loss": report.loss,
        "decoded_tokens_per_second": speed["tokens_per_second"].item(),
    }
    if trained:
        metrics |= {
            "validation_loss": min(row["validation_loss"] for row in trained.main.history),
            "best_epoch": trained.main.best_epoch,
            "epochs": trained.main.history[-1]["epoch"],
            "tokens_per_second": trained.main.tokens_per_second,
        }
    if isinstance(model, RecurrentModel):
        blocks = [(effective_rank(contexts), contexts.shape[1]) for contexts in _contexts(model, data, device)]
        metrics["effective_rank"] = float(np.mean([rank / width for rank, width in blocks]))
        metrics["block_width"] = sum(width for _, width in blocks) / len(blocks)
    if model.recipe.continuous:
        # It was trained on one continuous stream, so it is scored on one, too.
        metrics["stream_perplexity"] = evaluate_stream(model, data.test.token_ids, device=device).perplexity
    if trained and trained.projection:
        metrics["convergence_rate"] = trained.projection.convergence_rate
    return metrics


@torch.no_grad()
def _contexts(model: RecurrentModel, data: TextData, device: torch.device) -> Iterator[Tensor]:
    """Contexts (N * T, P) of each block over test windows, each window from zero, as the model is now.

    As many windows, evenly spread, as have the rows that the effective rank uses.
    """
    count = min(len(data.test), -(-EFFECTIVE_RANK_ROWS // data.test.seq_length))
    chosen = np.linspace(0, len(data.test) - 1, count).astype(int)
    windows = [data.test[int(index)]["input_ids"][:-1] for index in chosen]
    embeds = model.normed_embeddings(torch.stack(windows).to(device))
    for block in model.context_blocks:
        yield cast(DiverseProjection, block).unroll(embeds).flatten(0, 1)

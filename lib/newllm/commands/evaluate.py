"""``newllm evaluate``: a trained model asked by any text, LAMBADA, WikiText, tasks of the harness, and facts."""

import argparse
import importlib.util
import logging
from pathlib import Path

import pandas as pd
import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from newllm.benchmarks import scores as benchmarks
from newllm.benchmarks.scores import BenchmarkRecord, Question, Score, Settings
from newllm.commands.arguments.evaluate import NO_FILE
from newllm.commands.shared import check_outputs
from newllm.commands.terminal_table import as_text
from newllm.data.hub import HubUnavailableError
from newllm.evaluation.causality import certify
from newllm.files import SAVED_MODEL, local_folder, outputs_folder, reference_folder
from newllm.runs.record import Record
from newllm.runs.saved_model import TrainedModel, find_saved_model, load_trained_model
from newllm.runs.sealed_record import is_of_a_trial, read_sealed_record
from newllm.runtime import move, usable_device

logger = logging.getLogger(__name__)

# Below the outputs: results of published trials, whose own folders are committed.
EVALUATIONS_FOLDER = "evaluations"

# Fewer predicted tokens, a few windows, say little about a model.
FEW_TOKENS = 1_000
TOKENS = "tokens"


def main(options: argparse.Namespace) -> int:
    """Do ``newllm evaluate``: ask models, show what came out in one table and keep it as JSON."""
    records: dict[str, list[BenchmarkRecord]] = {}
    try:
        device = usable_device(options.device)
        # Whatever can be wrong with a model or a file is found before any model is asked.
        outputs = {model: _output(model, options.output) for model in options.models}
        questions = _questions(options)
        with logging_redirect_tqdm([logging.getLogger("newllm")]):
            for model, output in outputs.items():
                answers = _ask(model, questions, options, device, output)
                if answers is None:
                    return 1
                records[model] = answers
    except (ValueError, FileNotFoundError, HubUnavailableError) as error:
        logger.error("%s", error)
        return 2
    logger.info("\n%s", as_text(_table(records)))
    return 0


def _ask(
    model: str, questions: list[Question], options: argparse.Namespace, device: torch.device, output: Path
) -> list[BenchmarkRecord] | None:
    """Ask one model everything; None where it does not pass the causality certificate."""
    settings = _settings(model, options)
    trained = load_trained_model(model, method=options.method)
    move(trained.model, device)
    logger.info("%s: %s", model, _described(settings))
    change = _certificate(model, trained)
    if change is None:
        return None
    records = []
    for record in benchmarks.ask_all(questions, trained, settings, device, name=model, certificate=change):
        logger.info("%s", benchmarks.write_record(record, output))
        tokens = record.details.get(TOKENS)
        if tokens is not None and tokens < FEW_TOKENS:
            logger.warning(
                "%s: %d tokens are too few to tell models apart; ask for a text of %s or more.",
                record.benchmark,
                tokens,
                f"{FEW_TOKENS:,}",
            )
        records.append(record)
    return records


def _settings(model: str, options: argparse.Namespace) -> Settings:
    trial = _record_of(model)
    trained_at = trial.parameters.get("seq_length") if trial else None
    return Settings(
        method=options.method,
        window=options.window or trained_at,
        tokens_a_step=options.tokens_a_step,
        limit=options.limit,
    )


def _trial_folder(model: str) -> Path | None:
    """Return the folder that was named, or of a trial's model that of the trial; None for a hub id."""
    folder = local_folder(model)
    is_inside_trial = folder is not None and folder.name == SAVED_MODEL and is_of_a_trial(folder.parent)
    return folder.parent if folder is not None and is_inside_trial else folder


def _own_folder(model: str) -> Path | None:
    """Return where a model's results go: its folder, or for a published trial the like of it below the outputs."""
    folder = _trial_folder(model)
    published = reference_folder().resolve()
    if folder is None or not folder.resolve().is_relative_to(published):
        return folder
    return outputs_folder() / EVALUATIONS_FOLDER / folder.resolve().relative_to(published)


def _record_of(model: str) -> Record | None:
    folder = _trial_folder(model)
    return read_sealed_record(folder) if folder is not None and is_of_a_trial(folder) else None


def _output(model: str, asked: Path | None) -> Path:
    output = asked or _own_folder(model)
    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; it must be a folder.")
    find_saved_model(model)
    if output is None:
        raise ValueError(f"{model} is not in a folder of its own: say with --output where the results shall go.")
    check_outputs(output)
    return output


def _questions(options: argparse.Namespace) -> list[Question]:
    """Read and check all that is asked, before the model is loaded."""
    questions = []
    if options.lambada is not None:
        questions.append(benchmarks.lambada(None if options.lambada == NO_FILE else options.lambada))
    if options.text is not None:
        questions.append(benchmarks.text(options.text))
    if options.wikitext is not None:
        questions.append(benchmarks.wikitext(None if options.wikitext == NO_FILE else options.wikitext))
    if options.facts is not None:
        questions.append(benchmarks.reversal(None if options.facts == NO_FILE else options.facts))
    if options.tasks is not None:
        if importlib.util.find_spec("lm_eval") is None:
            raise ValueError("--tasks needs the lm-evaluation-harness: install it with pip install -e '.[eval]'.")
        wanted = [name.strip() for name in options.tasks.split(",") if name.strip()]
        questions.append(benchmarks.harness(wanted, options.task_folder))
    if not questions:
        raise ValueError("nothing is asked: give --text, --lambada, --wikitext, --facts or --tasks.")
    return questions


def _described(settings: Settings) -> str:
    window = f"windows of {settings.window} tokens at most" if settings.window else "windows of its longest sequence"
    way = f"through the cache by {settings.tokens_a_step}" if settings.tokens_a_step else "in one pass"
    weights = f"as {settings.method}, " if settings.method else ""
    return f"{weights}{window}, {way}."


def _certificate(model: str, trained: TrainedModel) -> float | None:
    """Certify the weights that were loaded, whatever the trial's record says; None where they do not pass."""
    certificate = certify(trained.model)
    if certificate.passed:
        return certificate.max_change
    logger.error(
        "%s does not pass the causality certificate, so nothing is recorded: %s", model, certificate.failures()[0]
    )
    return None


def _table(records: dict[str, list[BenchmarkRecord]]) -> pd.DataFrame:
    """Show every score, and the number of predicted tokens, in a row; of several models, each in its own column."""
    columns = _short_names(list(records)) if len(records) > 1 else ["value"]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for column, answers in zip(columns, records.values(), strict=True):
        for record in answers:
            for score in record.scores:
                rows.setdefault((record.benchmark, score.measure), {})[column] = _written(score)
            if TOKENS in record.details:
                rows.setdefault((record.benchmark, TOKENS), {})[column] = f"{record.details[TOKENS]:,}"
    return pd.DataFrame(
        [
            {"benchmark": benchmark, "measure": measure, **{column: found.get(column, "") for column in columns}}
            for (benchmark, measure), found in rows.items()
        ]
    )


def _written(score: Score) -> str:
    """Write a value with its 95 % interval, where it has one."""
    has_interval = score.low is not None and score.high is not None and score.low == score.low
    return f"{score.value:.5g}" + (f" [{score.low:.4g}, {score.high:.4g}]" if has_interval else "")


def _short_names(models: list[str]) -> list[str]:
    """Return what tells models apart: the ends of their paths, as long as that takes."""
    parts = [Path(model).parts for model in models]
    length = next(
        (count for count in range(1, max(map(len, parts))) if len({part[-count:] for part in parts}) == len(parts)),
        max(map(len, parts)),
    )
    return ["/".join(part[-length:]) for part in parts]

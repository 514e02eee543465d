"""The experiment: an arm and a seed become a trained, evaluated, certified and recorded model; arms are compared."""

import json
import logging
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from newllm.arms import Arm
from newllm.config import ExperimentParameters
from newllm.convergence import effective_rank
from newllm.data import TextData
from newllm.data.tokenizers import tokenizer_identity
from newllm.devices import choose_device
from newllm.durations import describe_seconds
from newllm.embeddings import RANDOM, adopt_embedding, read_embedding
from newllm.environment import environment
from newllm.evaluation.cache import measure
from newllm.evaluation.causality import certify
from newllm.evaluation.decoding import compare_decoding
from newllm.evaluation.diagnosis import diagnose
from newllm.evaluation.perplexity import PerplexityReport, evaluate, run_on
from newllm.evaluation.statistics import difference_over_windows_and_seeds, mean_interval
from newllm.folders import outputs_folder
from newllm.main_training import TrainingResult, estimate_seconds, train
from newllm.models.borrowed_embedding import BorrowedEmbeddingModel
from newllm.models.config import BorrowedEmbeddingConfig
from newllm.models.language_model import LanguageModel
from newllm.models.projection import DiverseProjection
from newllm.models.pythia import PythiaModel
from newllm.models.registry import BASELINE, configure
from newllm.projection_training import (
    DESCRIPTION,
    ProjectionResult,
    load_projection,
    save_projection,
    train_projections,
)
from newllm.runs import SAVED_MODEL, CacheSize, CertificateResult, Continuation, Record, Run, load_records
from newllm.stream_training import estimate_stream_seconds, train_on_stream

logger = logging.getLogger(__name__)

PROMPTS = ("The people of the United States", "At the end of the year")
CONTINUATION_TOKENS = 40
DECODING_CONTEXT = 128
DECODING_STEPS = 16
EVALUATION_FILE = "evaluation.json"
HISTORY_FILE = "history.json"
PRETRAINED = "pretrained"
SETTINGS_THAT_TAKE_TIME = ("size", "batch_size", "epochs", "precision", "device", "stream_tokens")
MEASURES = ("perplexity", "bits_per_byte", "accuracy", "run_on_perplexity", "effective_rank", "convergence_rate")


class CertificateError(RuntimeError):
    """A model that sees the future, or may; nothing is recorded of it."""


class ComparisonError(RuntimeError):
    """Some cells of a comparison failed, after all the others were finished."""


@dataclass(frozen=True)
class Trained:
    """What a recipe did.

    Attributes
    ----------
    main
        Main training.
    projection
        Projection training; None where the arm has none.
    """

    main: TrainingResult
    projection: ProjectionResult | None = None


@dataclass(frozen=True)
class Cell:
    """An arm with a seed, on some data, and the folder that holds its run's.

    Attributes
    ----------
    arm, seed, parameters
        What is trained, and how.
    folder
        Holds the folders of the cells.
    data
        Fingerprint of the windows: those with facts among them are other data.
    """

    arm: Arm
    seed: int
    parameters: ExperimentParameters
    folder: Path
    data: str

    def run(self) -> Run:
        """Open the run of the cell; it stays the same when arms or seeds are added to the comparison."""
        identity = self.parameters.cell_identity(
            self.arm.name,
            self.seed,
            trains_projection=self.arm.trains_projection,
            reads_stream=self.arm.reads_stream,
        )
        identity["data"] = self.data
        return Run(self.folder / f"{self.arm.folder_name}-seed{self.seed}", identity)

    def __str__(self) -> str:
        """Return the cell as messages name it."""
        return f"{self.arm.name} with seed {self.seed}"


Treatment = Callable[["Cell", LanguageModel, TextData, Path, torch.device], ProjectionResult | None]


@dataclass(frozen=True)
class Recipe:
    """One way of training.

    Attributes
    ----------
    train
        Trains the model of a cell.
    estimate
        Says how many seconds its main training takes at most, given what `newllm.main_training.estimate_seconds` takes.
    """

    train: Callable[["Cell", LanguageModel, TextData, Path, torch.device], Trained]
    estimate: Callable[..., float]


def train_and_freeze_projection(
    cell: Cell, model: LanguageModel, data: TextData, folder: Path, device: torch.device
) -> ProjectionResult:
    """Treatment ``oacd``: train the recurrences on the first ``projection_samples`` windows, then freeze them."""
    place, identity = folder / "projection", tokenizer_identity(data.tokenizer)
    if (place / DESCRIPTION).exists():
        # The model was killed later, in main training.
        result = load_projection(place, model, identity)
    else:
        result = train_projections(
            model,
            data.train.stream(cell.parameters.projection_samples),
            cell.parameters,
            data_split=getattr(model.config, "data_split", "disjoint"),
            device=device,
            seed=cell.seed,
            resume_folder=place,
        )
        save_projection(place, model, result, identity)
    model.freeze_context_blocks()
    return result


def freeze_projection(cell: Cell, model: LanguageModel, *_: Any) -> None:
    """Treatment ``random``: the recurrences stay as they were initialised."""
    model.freeze_context_blocks()


def leave_projection(*_: Any) -> None:
    """Treatment ``end-to-end``, and models without a recurrence: everything trains together."""


TREATMENTS: dict[str | None, Treatment] = {
    "oacd": train_and_freeze_projection,
    "random": freeze_projection,
    "end-to-end": leave_projection,
    None: leave_projection,
}


def train_on_windows(cell: Cell, model: LanguageModel, data: TextData, folder: Path, device: torch.device) -> Trained:
    """Train the recurrences by their treatment, then the rest by cross-entropy, each window from an empty cache."""
    projection = TREATMENTS[cell.arm.projection](cell, model, data, folder, device)
    if cell.arm.frozen_embedding:
        model.get_input_embeddings().requires_grad_(False)
    main = train(model, data, cell.parameters, folder / "training", seed=cell.seed, device=device)
    return Trained(main, projection)


def embedding_cell(cell: Cell) -> Cell | None:
    """Return the cell whose embedding this one takes over; None where it takes none, or one from elsewhere.

    It is the baseline of the same width, on the same data and with the same seed.
    """
    settings = cell.arm.settings(cell.parameters)
    config = configure(cell.arm.method, cell.parameters.size, **settings)
    if not isinstance(config, BorrowedEmbeddingConfig) or config.embedding_source is not None:
        return None
    baseline = Arm.parse(BASELINE)
    if configure(BASELINE, cell.parameters.size).hidden_size != config.hidden_size:
        baseline = replace(baseline, overrides=(("hidden_size", config.hidden_size),))
    return replace(cell, arm=baseline)


def prepare_context_blocks(
    cell: Cell, model: LanguageModel, data: TextData, folder: Path, device: torch.device
) -> ProjectionResult | None:
    """Give a model its embedding, train its context blocks by their treatment, and freeze what shall be frozen.

    The embedding is that of ``embedding_source``, or of :func:`embedding_cell`, which is run where it is not finished.
    The latter lends its output rows, which its few epochs have taught more than the input rows, also where they are
    not going to be a head: arms that differ in their head alone have the same embedding.
    """
    source, baseline = model.config.embedding_source, embedding_cell(cell)
    if baseline is not None:
        run_cell(baseline, data)
        place = baseline.run().folder
        adopt_embedding(model, replace(read_embedding(str(place), for_head=True), source=place.name), data.tokenizer)
    elif source != RANDOM:
        adopt_embedding(model, read_embedding(source, for_head=model.config.tie_word_embeddings), data.tokenizer)
    blocks = replace(cell, parameters=cell.parameters.for_context_blocks())
    projection = TREATMENTS[cell.arm.projection](blocks, model, data, folder, device)
    frozen = model.config.freeze_embedding or cell.arm.frozen_embedding
    model.get_input_embeddings().requires_grad_(not frozen)
    return projection


def train_on_contexts(cell: Cell, model: LanguageModel, data: TextData, folder: Path, device: torch.device) -> Trained:
    """Train the context blocks of a model, then what reads their contexts, on one run-on stream."""
    assert isinstance(model, BorrowedEmbeddingModel)
    projection = prepare_context_blocks(cell, model, data, folder, device)
    main = train_on_stream(model, data, cell.parameters, folder / "training", seed=cell.seed, device=device)
    return Trained(main, projection)


# A model class names its recipe in `training_recipe`; a new way of training is two functions and an entry here.
RECIPES: dict[str, Recipe] = {
    "windows": Recipe(train_on_windows, estimate_seconds),
    "contexts": Recipe(train_on_contexts, estimate_stream_seconds),
}


def run_cell(cell: Cell, data: TextData) -> Record:
    """Build, train, evaluate, certify and record one arm with one seed; what is finished is read, not run again.

    The folder of the cell then holds ``record.json``, ``evaluation.json`` (positions, window losses, diagnosis),
    ``history.json`` (main and projection training) and ``model``, which ``from_pretrained`` loads with its tokenizer.

    Parameters
    ----------
    cell
        The arm, the seed and where to.
    data
        Training and held-out windows.

    Raises
    ------
    CertificateError
        Where the trained model does not pass the causality certificate.
    """
    run = cell.run()
    if run.is_finished:
        return run.record()
    run.start()
    start = time.perf_counter()
    device = choose_device(cell.parameters.device)
    model = cell.arm.build(cell.parameters, len(data.tokenizer), cell.seed)
    recipe = RECIPES[model.training_recipe]
    trained = recipe.train(cell, model.to(device), data, run.folder, device)  # type: ignore[arg-type]
    record = _evaluate_and_record(
        run, cell.parameters, cell.arm.name, cell.arm.method, cell.seed, model, data, trained, start
    )
    with _no_progress_bar():
        model.save_pretrained(run.folder / SAVED_MODEL)
    data.tokenizer.save_pretrained(run.folder / SAVED_MODEL)
    run.finish(record.duration_seconds, record)
    # The same weights lie in the folder `model` now.
    (run.folder / "training" / "model.safetensors").unlink(missing_ok=True)
    return record


def score_pretrained(parameters: ExperimentParameters, data: TextData, folder: Path) -> Record:
    """Evaluate, certify and record trained Pythia weights on the same held-out windows, as a row of their own.

    Parameters
    ----------
    parameters
        ``pretrained`` names the weights: a hub id, or a folder with the model and its tokenizer.
    data
        Held-out windows.
    folder
        Holds the folders of the cells; this one's is ``pretrained``.

    Raises
    ------
    ValueError
        Where the weights belong to another tokenizer than the windows.
    CertificateError
        Where the model does not pass the causality certificate.
    """
    source = str(parameters.pretrained)
    run = Run(folder / PRETRAINED, parameters.identity() | {"arms": [PRETRAINED], "seeds": [0]})
    if run.is_finished:
        return run.record()
    run.start()
    start = time.perf_counter()
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
        model = PythiaModel.from_pretrained(source)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"pretrained is {source!r}, which cannot be read ({reason}): leave it out to work offline"
        ) from error
    if tokenizer_identity(tokenizer) != tokenizer_identity(data.tokenizer):
        raise ValueError(
            f"pretrained is {source!r}, whose tokenizer is not {parameters.tokenizer!r}: give tokenizer the same value"
        )
    torch.nn.Module.to(model, choose_device(parameters.device))
    record = _evaluate_and_record(run, parameters, PRETRAINED, BASELINE, 0, model, data, None, start)
    run.finish(record.duration_seconds, record)
    return record


def _evaluate_and_record(
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
    """Score, certify and describe a model; write all but the record itself, which finishes the run."""
    model.eval()
    device = choose_device(parameters.device)
    report = evaluate(model, data.validation, batch_size=parameters.batch_size, device=device)
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
        metrics=_metrics(model, data, report, trained, device),
        cache=CacheSize.model_validate(_cache_fields(model, data.validation.seq_length)),
        certificate=CertificateResult(passed=certificate.passed, max_change=certificate.max_change),
        continuations=tuple(continue_prompts(model, data.tokenizer)),
        duration_seconds=time.perf_counter() - start,
    )


def _cache_fields(model: LanguageModel, tokens: int) -> dict[str, Any]:
    report = measure(model, tokens)
    return {name: getattr(report, name) for name in CacheSize.model_fields}


def _metrics(
    model: LanguageModel, data: TextData, report: PerplexityReport, trained: Trained | None, device: torch.device
) -> dict[str, float | None]:
    """Numbers of the record; effective ranks are shares of the width, between 0 and 1."""
    speed = compare_decoding({"model": model}, [DECODING_CONTEXT], steps=DECODING_STEPS)["tokens_per_second"].item()
    metrics: dict[str, float | None] = {
        "perplexity": report.perplexity,
        "bits_per_byte": report.bits_per_byte,
        "accuracy": report.accuracy,
        "validation_loss": report.loss,
        "decoded_tokens_per_second": speed,
    }
    if trained:
        metrics |= {
            "best_epoch": trained.main.best_epoch,
            "epochs": len(trained.main.history),
            "tokens_per_second": trained.main.tokens_per_second,
        }
    if len(model.context_blocks):
        ranks = [effective_rank(contexts) / contexts.shape[1] for contexts in _contexts(model, data, device)]
        metrics["effective_rank"] = float(np.mean(ranks))
    if model.training_recipe != "windows":
        # It was trained on one run-on stream, so it is scored on one, too.
        metrics["run_on_perplexity"] = run_on(model, data.validation.token_ids, device=device).perplexity
    if trained and trained.projection:
        metrics["convergence_rate"] = trained.projection.convergence_rate
    return metrics


@torch.no_grad()
def _contexts(model: LanguageModel, data: TextData, device: torch.device) -> Iterator[Tensor]:
    """Contexts (N * T, P) of each block over the held-out windows, each window from zero, as the model is now."""
    windows = [data.validation[index]["input_ids"][:-1] for index in range(len(data.validation))]
    embeds = model.normed_embeddings(torch.stack(windows).to(device))
    for block in model.context_blocks:
        yield cast(DiverseProjection, block).unroll(embeds).flatten(0, 1)


@torch.no_grad()
def continue_prompts(model: LanguageModel, tokenizer: PreTrainedTokenizerFast) -> Iterator[Continuation]:
    """Continue the two fixed prompts greedily, so that a reader sees what the model says."""
    for prompt in PROMPTS:
        encoded = tokenizer(prompt, return_tensors="pt").to(model.device)
        ids = encoded["input_ids"]
        generated = model.generate(  # type: ignore[misc]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=CONTINUATION_TOKENS,
            do_sample=False,
            # Ids beyond the tokenizer's are padding of the vocabulary and stand for no text.
            suppress_tokens=list(range(len(tokenizer), model.config.vocab_size)) or None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        yield Continuation(prompt=prompt, text=tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True))


def compare(parameters: ExperimentParameters, data: TextData, folder: Path) -> pd.DataFrame:
    """Run every arm with every seed, each in a run folder of its own, and return their records.

    Finished cells are read, killed ones resumed, and equal ones that another notebook finished are taken over, except
    with ``rerun``. A cell that fails does not stop the others.

    Parameters
    ----------
    parameters
        Arms, seeds, and all settings of training. ``processes`` cells run side by side, each on its share of the cores.
    data
        Training and held-out windows, the same for all.
    folder
        Holds one folder a cell, named after arm and seed.

    Returns
    -------
    pandas.DataFrame
        One row a cell, as `newllm.runs.load_records` gives them, in the order of arms and seeds.

    Raises
    ------
    ArmError
        Before anything runs, where an arm cannot be built.
    ComparisonError
        After everything else has run, where a cell failed.
    """
    arms = list(dict.fromkeys(Arm.parse(text) for text in parameters.arms))
    for arm in arms:
        arm.check(parameters)
    cells = [Cell(arm, seed, parameters, folder, data.fingerprint) for seed in parameters.seeds for arm in arms]
    failures = run_cells(cells, data, parameters.processes)
    if failures:
        described = "; ".join(f"{cell}: {type(error).__name__}: {error}" for cell, error in failures.items())
        raise ComparisonError(
            f"{len(failures)} of {len(cells)} cells failed, the others are finished and kept ({described})."
        ) from next(iter(failures.values()))
    wanted = [(arm.name, seed) for arm in arms for seed in parameters.seeds]
    if parameters.pretrained:
        score_pretrained(parameters, data, folder)
        wanted.append((PRETRAINED, 0))
    records = load_records(folder).set_index(["arm", "seed"], drop=False)
    return records.loc[wanted].reset_index(drop=True)


def run_cells(
    cells: Sequence[Cell], data: TextData, processes: int = 1, known: Mapping[Cell, float] | None = None
) -> dict[Cell, Exception]:
    """Run cells, which may differ in any parameter but those of the data, and return those that failed.

    What is finished is left as it is, what was killed goes on, and what another notebook finished is taken over, except
    with ``rerun``. A cell that fails does not stop the others.

    Parameters
    ----------
    cells
        What to run.
    data
        Training and held-out windows, the same for all.
    processes
        How many cells run side by side, each on its share of the cores.
    known
        Seconds of cells as `expected_seconds` gives them; those of the others are measured.

    Returns
    -------
    dict
        The error of each cell that failed.
    """
    for cell in unfinished(cells):
        if not cell.parameters.rerun:
            cell.run().take_over(outputs_folder())
    waiting = unfinished(cells)
    if not waiting:
        return {}
    seconds = dict(known or {})
    seconds |= expected_seconds([cell for cell in waiting if cell not in seconds], data)
    clock = _Clock({cell: seconds[cell] for cell in waiting}, processes)
    lenders = {embedding_cell(cell) for cell in waiting}
    failures: dict[Cell, Exception] = {}
    # Whoever lends an embedding comes first: no two processes may run the same cell.
    for is_lender in (True, False):
        stage = [cell for cell in waiting if (cell in lenders) is is_lender]
        for cell, error in _run_side_by_side(stage, data, processes):
            if error is not None:
                logger.error("%s failed.", cell, exc_info=error)
                failures[cell] = error
            clock.finished(cell)
    return failures


def unfinished(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that are still to be run, and those that lend them an embedding, each once.

    Raises
    ------
    RunError
        Where the folder of a cell holds something else.
    """
    waiting = [cell for cell in cells if not cell.run().is_finished]
    lenders = [lender for cell in waiting if (lender := embedding_cell(cell)) is not None]
    return [cell for cell in dict.fromkeys([*lenders, *waiting]) if not cell.run().is_finished]


def _run_side_by_side(cells: Sequence[Cell], data: TextData, processes: int) -> Iterator[tuple[Cell, Exception | None]]:
    """Run cells in this process or in several, and yield each when it is done, with its error if it failed."""
    if processes == 1:
        for cell in cells:
            yield cell, _error_of(partial(run_cell, cell, data))
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    context = multiprocessing.get_context("spawn")
    # Progress bars of several processes would write over one another; tqdm reads the variable when it is imported.
    with (
        environment(TQDM_DISABLE="1"),
        ProcessPoolExecutor(processes, context, _start_worker, (threads,)) as pool,
    ):
        futures: dict[Future[Record], Cell] = {pool.submit(run_cell, cell, data): cell for cell in cells}
        for future in as_completed(futures):
            yield futures[future], _error_of(future.result)


def _error_of(run: Callable[[], Record]) -> Exception | None:
    """Return what went wrong, if anything did."""
    try:
        run()
    except Exception as error:
        return error
    return None


def expected_seconds(cells: Sequence[Cell], data: TextData) -> dict[Cell, float]:
    """Say how long the main training of each cell takes at most, by timing a few steps of each kind of cell.

    Parameters
    ----------
    cells
        What shall be run.
    data
        Training and held-out windows.
    """
    by_kind: dict[tuple[Any, ...], float] = {}
    expected = {}
    for cell in cells:
        parameters = cell.parameters
        settings = cell.arm.settings(parameters)
        # Learning rates and the like take no time.
        kind = (cell.arm, repr(settings), *(getattr(parameters, name) for name in SETTINGS_THAT_TAKE_TIME))
        if kind not in by_kind:
            model = cell.arm.build(parameters, len(data.tokenizer), cell.seed)
            # As the recipes do: what is frozen takes less time.
            if cell.arm.projection not in (None, "end-to-end"):
                model.freeze_context_blocks()
            if cell.arm.frozen_embedding:
                model.get_input_embeddings().requires_grad_(False)
            estimate = RECIPES[model.training_recipe].estimate
            by_kind[kind] = estimate(model, data, parameters, device=choose_device(parameters.device))
        expected[cell] = by_kind[kind]
    return expected


def _start_worker(threads: int) -> None:
    """Give a process its share of the cores, and leave the terminal to the process that waits for it."""
    torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()


class _Clock:
    """Says how long the cells take: at first what was expected, then by what the finished cells took."""

    def __init__(self, expected: Mapping[Cell, float], processes: int) -> None:
        self.expected = dict(expected)
        self.total = len(self.expected)
        self.start = time.perf_counter()
        self.done_share = 0.0
        logger.info(
            "%d cells to train: about %s at most, projection training aside.",
            self.total,
            describe_seconds(sum(self.expected.values()) / processes),
        )

    def finished(self, cell: Cell) -> None:
        """Note that a cell is finished, and say what is left."""
        self.done_share += self.expected.pop(cell)
        left = sum(self.expected.values())
        passed = time.perf_counter() - self.start
        logger.info(
            "%d of %d cells are finished after %s; about %s left.",
            self.total - len(self.expected),
            self.total,
            describe_seconds(passed),
            describe_seconds(passed * left / self.done_share),
        )


def summarize_arms(records: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Compare arms: means with their intervals over seeds, and differences from a baseline on the same windows.

    Parameters
    ----------
    records
        Rows of `compare`.
    baseline
        Name of the arm to take differences from; None leaves them out.

    Returns
    -------
    pandas.DataFrame
        One row an arm, the lowest perplexity first: ``arm``, ``seeds``, ``parameter_count``, ``kv_bytes_per_token``,
        ``kv_bytes`` of a held-out window; for each measure its mean, ``_low`` and ``_high`` (95 %, Student's t; NaN
        with one seed); with a baseline, ``difference`` in nats per token (negative is better) with the interval over
        the windows, seeds averaged, and ``difference_over_seeds_low`` and ``_high``, the interval over the seeds that
        both arms have.
    """
    rows = []
    for arm, group in records.groupby("arm", sort=False):
        row: dict[str, Any] = {"arm": arm, "seeds": len(group)}
        row |= {name: group[name].iloc[0] for name in ("parameter_count", "kv_bytes_per_token", "kv_bytes")}
        for measure_name in MEASURES:
            if measure_name in group and group[measure_name].notna().all():
                row |= mean_interval(group[measure_name]).columns(measure_name)
        if baseline is not None and arm != baseline:
            row |= _difference(group, records[records["arm"] == baseline])
        rows.append(row)
    return pd.DataFrame(rows).sort_values("perplexity", ignore_index=True)


def _difference(group: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """Paired difference of an arm from the baseline, over the seeds of which both have the losses by window."""
    group, reference = (
        frame[[(folder / EVALUATION_FILE).is_file() for folder in frame["folder"]]] for frame in (group, reference)
    )
    seeds = sorted(set(group["seed"]) & set(reference["seed"]))
    if not seeds:
        return {"difference": math.nan}
    ours, theirs = (
        np.stack([_window_losses(frame.set_index("seed").loc[seed, "folder"]) for seed in seeds])
        for frame in (group, reference)
    )
    return difference_over_windows_and_seeds(ours, theirs)


def load_trained(folder: Path) -> LanguageModel:
    """Load the trained model of a finished cell, in eval mode.

    Parameters
    ----------
    folder
        Folder of the cell, as the rows of `compare` name it.
    """
    with _no_progress_bar():
        model: LanguageModel = AutoModelForCausalLM.from_pretrained(folder / SAVED_MODEL).eval()
    return model


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing one while it reads or writes weights, which takes no time worth one."""
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def histories(records: pd.DataFrame) -> pd.DataFrame:
    """Read the main training of each record: one row an epoch, with ``arm`` and ``seed``.

    Parameters
    ----------
    records
        Rows of `compare`.
    """
    return _rows_of(records, HISTORY_FILE, "main")


def positions(records: pd.DataFrame) -> pd.DataFrame:
    """Read the perplexity by position of each record: one row a band (start, end), with ``arm`` and ``seed``.

    Parameters
    ----------
    records
        Rows of `compare`.
    """
    return _rows_of(records, EVALUATION_FILE, "positions")


def _rows_of(records: pd.DataFrame, file: str, entry: str) -> pd.DataFrame:
    """Gather a list of rows from a file in the folder of each record."""
    frames = []
    for _, record in records.iterrows():
        stored = json.loads((record["folder"] / file).read_text(encoding="utf-8"))
        frames.append(pd.DataFrame(stored[entry]).assign(arm=record["arm"], seed=record["seed"]))
    return pd.concat(frames, ignore_index=True)


def _window_losses(folder: Any) -> np.ndarray:
    """Mean loss of each held-out window (N,) of a finished cell."""
    return np.asarray(pd.read_json(Path(folder) / EVALUATION_FILE, typ="series")["window_losses"], dtype=np.float64)

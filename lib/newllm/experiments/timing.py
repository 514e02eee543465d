"""How long trials are expected to take, stage by stage, by a few steps of each kind that are timed before."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor

from newllm.config.experiment import ExperimentParameters
from newllm.config.groups import MEMORY_PARAMETERS, ProjectionParameters
from newllm.data import TextData
from newllm.evaluation.causality import probed_length
from newllm.evaluation.decoding import DecodingSession
from newllm.evaluation.later_tokens import MANY_OFFSETS, PROBED_LOGITS_AT_ONCE
from newllm.evaluation.perplexity import score_rows
from newllm.evaluation.probing import probe_copy, probe_generator, random_tokens
from newllm.evaluation.recall import PASSAGE_TOKENS
from newllm.experiments.arms import Arm
from newllm.experiments.executor import threads_of_each
from newllm.experiments.recipes import RECIPES, freeze
from newllm.experiments.trial import Trial
from newllm.models.language_model import LanguageModel
from newllm.models.recurrent import RecurrentModel
from newllm.progress import CERTIFICATE, DECODING, PROJECTION, SCORING, TRAINING, stage
from newllm.recurrence.training import estimate_projection_seconds
from newllm.runs.progress import Plan, PlannedTrial
from newllm.runtime import choose_device, move

logger = logging.getLogger(__name__)

SETTINGS_THAT_TAKE_TIME = (
    *("size", "batch_size", "epochs", "evaluations", "precision", "device", "stream_tokens"),
    *MEMORY_PARAMETERS,
)

# For how long it is watched what other programs do.
WATCHED_SECONDS = 0.3

# Until a process that was started has imported what it needs.
PROCESS_START_SECONDS = 8.0

# What the certificate computes, L being its length: rows of L tokens in eleven passes over every changed token (two of
# the ways pad, by four widths each), backward through some, and some hundred calls of few tokens. Of many tokens, one
# pass changes every one, and others a few.
CERTIFICATE_ROWS = 14
CERTIFICATE_ROWS_OF_MANY = 3
CERTIFICATE_CALLS = 120

# Calls with one token each: the speed of decoding, in which memory is counted once, and the cache that is measured.
DECODING_CALLS = 30


def expected_stages(trials: Sequence[Trial], data: TextData, processes: int) -> dict[Trial, dict[str, float]]:
    """Say how many seconds each stage of each trial takes.

    Parameters
    ----------
    trials
        What shall be run.
    data
        Training and held-out windows.
    processes
        How many trials run side by side; each is timed on its share of the cores.
    """
    kinds = {trial: _kind(trial) for trial in trials}
    examples = {kind: trial for trial, kind in kinds.items()}
    by_kind = {}
    if any(choose_device(trial.parameters.device).type == "cpu" for trial in examples.values()):
        _warn_of_other_work(torch.get_num_threads())
    with stage("timing a few steps", len(examples), "arm") as told, _share_of_cores(processes):
        for kind, trial in examples.items():
            by_kind[kind] = _stages(trial.arm, trial.parameters, data, trial.seed)
            told.advance()
    return {trial: by_kind[kind] for trial, kind in kinds.items()}


def _warn_of_other_work(threads: int) -> None:
    """Say so where other programs keep cores busy: the threads of an operation wait for the slowest of them."""
    cores = os.cpu_count() or 1
    busy = psutil.cpu_percent(WATCHED_SECONDS) / 100 * cores
    if threads > 1 and cores - busy < threads - 0.5:
        logger.warning(
            "Other programs keep %.1f of %d cores busy: %d threads that wait for one another can be many times slower "
            "then than one. With OMP_NUM_THREADS=1 before the command there is one.",
            *(busy, cores, threads),
        )


def _kind(trial: Trial) -> tuple[Any, ...]:
    """Return what decides how long a trial takes: learning rates and the like take no time."""
    settings = repr(trial.arm.settings(trial.parameters))
    return (trial.arm, settings, *(getattr(trial.parameters, name) for name in SETTINGS_THAT_TAKE_TIME))


@contextmanager
def _share_of_cores(processes: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if processes > 1:
        torch.set_num_threads(threads_of_each(processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stages(arm: Arm, parameters: ExperimentParameters, data: TextData, seed: int) -> dict[str, float]:
    device = choose_device(parameters.device)
    model = arm.build(parameters, len(data.tokenizer), seed)
    move(model, device)
    stages = {}
    if arm.trains_projection:
        assert isinstance(model, RecurrentModel)
        reads: ProjectionParameters = parameters.for_context_blocks() if arm.reads_stream else parameters
        tokens = data.train.stream(parameters.projection_samples)
        parts = len(model.context_blocks) if model.data_split == "disjoint" else 1
        seconds = estimate_projection_seconds(model, tokens[: len(tokens) // parts], reads, device=device)
        stages[PROJECTION] = seconds * len(model.context_blocks)
    session = DecodingSession(model, 1)
    session.fill(1)
    one_token = _seconds_of(session.decode)
    stages[SCORING] = _scoring_seconds(model, data, parameters, device)
    stages[CERTIFICATE] = _certificate_seconds(model)
    written = len(parameters.prompts) * parameters.continuation_tokens + parameters.timed_tokens
    stages[DECODING] = one_token * (written + DECODING_CALLS)
    freeze(arm, model)
    # It comes last, because the model takes a few steps.
    stages[TRAINING] = RECIPES[model.recipe].estimate(model, data, parameters, device=device)
    return {name: stages[name] for name in (PROJECTION, TRAINING, SCORING, CERTIFICATE, DECODING) if name in stages}


def _scoring_seconds(
    model: LanguageModel, data: TextData, parameters: ExperimentParameters, device: torch.device
) -> float:
    """Seconds to score the test windows and the repeated passages, and once more where contexts or a stream are read.

    A token takes as long in a passage as in a window, or less.
    """
    windows = data.test
    rows = min(parameters.batch_size, len(windows))
    ids = torch.stack([windows[row]["input_ids"] for row in range(rows)]).to(device)
    passes = 1 + isinstance(model, RecurrentModel) + model.recipe.continuous
    # A passage is read twice, in two texts: behind itself, and behind another one.
    repeated = sum(
        2 * parameters.repeated_passages * length
        for distance in parameters.repeat_distances
        if (length := distance + 2 * PASSAGE_TOKENS) <= windows.seq_length
    )
    tokens = passes * len(windows) * windows.seq_length + repeated
    return tokens / (rows * windows.seq_length) * _seconds_of(lambda: score_rows(model.eval(), ids, None))


def _certificate_seconds(model: LanguageModel) -> float:
    """Seconds of `newllm.evaluation.causality.certify`, by a few passes of the float64 copy that it probes."""
    probed = probe_copy(model)
    length = probed_length(model)
    rows = max(1, min(length - 1, 2048 // length, PROBED_LOGITS_AT_ONCE // (length * model.config.vocab_size)))
    generator = probe_generator()

    def forward(batch: int, tokens: int) -> Callable[[], Tensor]:
        ids = random_tokens(probed, batch, tokens, generator)
        return lambda: probed(ids, use_cache=False).logits

    wide, narrow = _seconds_of(forward(rows, length)), _seconds_of(forward(1, min(length, 12)))
    times = CERTIFICATE_ROWS if length <= MANY_OFFSETS else CERTIFICATE_ROWS_OF_MANY
    return times * (length - 1) / rows * wide + (CERTIFICATE_CALLS + 6 * length) * narrow


@torch.no_grad()
def _seconds_of(work: Callable[[], Any]) -> float:
    """Return the time of a second run: the first one costs more than all that follow."""
    work()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def plan_of(trials: Sequence[Trial], stages: Mapping[Trial, Mapping[str, float]], processes: int) -> Plan:
    """Make the plan of trials, in this order, as whoever looks on reads it.

    Parameters
    ----------
    trials
        What is run.
    stages
        Seconds of the stages of each, as `expected_stages` gives them.
    processes
        How many trials run side by side.
    """
    planned = tuple(
        PlannedTrial(arm=trial.arm.name, seed=trial.seed, folder=trial.run().folder, expected=dict(stages[trial]))
        for trial in trials
    )
    start = PROCESS_START_SECONDS if processes > 1 else 0.0
    return Plan(started_at=time.time(), processes=processes, start_seconds=start, trials=planned)


def ended(plan: Plan, trial: Trial) -> Plan:
    """Return the plan in which a trial has come to its end, finished or not."""
    run = trial.run()
    if not run.is_finished:
        return plan.ended(run.folder, 0.0, None)
    record = run.record()
    return plan.ended(run.folder, record.duration_seconds, record.metrics["loss"])

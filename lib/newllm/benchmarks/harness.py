"""Asking a model the questions of EleutherAI's lm-evaluation-harness. It needs the extra ``eval``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm.benchmarks.harness_model import HarnessModel, TaskError
from newllm.benchmarks.harness_tasks import FileTask, quiet_harness
from newllm.evaluation.statistics import mean_interval, proportion_interval

# Of fewshot examples, and of sampling where a task asks for it.
SEED = 1234


@dataclass(frozen=True)
class TaskResult:
    """The scores of one task.

    Attributes
    ----------
    task
        Its name.
    version
        Of the task, as its file says.
    data
        The data set on the hub, or the digest of the user's task file with its data.
    documents, available
        How many documents were asked, of how many there are.
    scores
        One entry a measure: its value, and the ends of the 95 % interval over documents (NaN where the measure is no
        mean over documents).
    """

    task: str
    version: str
    data: str
    documents: int
    available: int
    scores: dict[str, dict[str, float]]


def evaluate_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[ConfigurableTask],
    *,
    limit: int | None = None,
    window: int | None = None,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    tokens_a_step: int | None = None,
) -> list[TaskResult]:
    """Ask a model the harness' questions.

    Parameters
    ----------
    model, tokenizer
        Any causal language model, and its tokenizer.
    tasks
        As `newllm.benchmarks.harness_tasks.find_tasks` gives them.
    limit
        The first documents of each task only.
    window, batch_size, device, tokens_a_step
        As for `HarnessModel`.

    Returns
    -------
    list of TaskResult
        One a task.

    Raises
    ------
    TaskError
        A limit below 1, a choice without a token, or an answer that does not fit into the window.
    TaskFileError
        A document that a task's template cannot be rendered with.
    NonFiniteScoreError
        A model whose scores are no numbers.
    """
    if limit is not None and limit < 1:
        raise TaskError(f"limit={limit} must be 1 or more documents.")
    ready = {task.task_name: task for task in tasks}
    for task in ready.values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(SEED)
    with quiet_harness(), torch.random.fork_rng():
        torch.manual_seed(SEED)
        judged = HarnessModel(
            model, tokenizer, window=window, batch_size=batch_size, device=device, tokens_a_step=tokens_a_step
        )
        found = evaluate(judged, {"tasks": ready}, limit=limit, bootstrap_iters=0, log_samples=True)
    return [_result(task, found) for task in ready.values()]


def _result(task: ConfigurableTask, found: dict[str, Any]) -> TaskResult:
    name = task.task_name
    scores = {}
    for key, value in found["results"][name].items():
        measure, comma, filtered = key.partition(",")
        if not comma or measure.endswith("_stderr"):
            continue
        low = high = math.nan
        samples = [sample[measure] for sample in found["samples"][name] if sample["filter"] == filtered]
        if task.aggregation().get(measure) is mean:
            is_share = set(samples) <= {0, 1}
            interval = proportion_interval(int(sum(samples)), len(samples)) if is_share else mean_interval(samples)
            low, high = interval.low, interval.high
        label = measure if filtered == "none" else f"{measure}, {filtered}"
        scores[label] = {"value": float(value), "low": low, "high": high}
    counts = found["n-samples"][name]
    version = str(found["versions"][name])
    hub_data = [part for part in (task.DATASET_PATH, task.DATASET_NAME) if part]
    data = f"sha256:{task.digest}" if isinstance(task, FileTask) else "/".join(hub_data)
    return TaskResult(name, version, data, counts["effective"], counts["original"], scores)

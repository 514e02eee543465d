"""EleutherAI's lm-evaluation-harness with any model here: its tasks by name, or the user's own task files.

It needs the extra ``eval``. A task of the harness is code of the installed harness and data of the hub; no code of the
hub is run. What a user's task folder may do is said in :mod:`newllm.benchmarks.task_files`.
"""

import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import torch
from lm_eval import tasks as harness_package
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import AGGREGATION_REGISTRY, FILTER_REGISTRY, METRIC_REGISTRY, register_model
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.models.utils_hf import stop_sequences_criteria
from lm_eval.tasks import TaskManager
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm.benchmarks.task_files import TaskFile, read_task_folder
from newllm.benchmarks.wikitext import rolling_windows
from newllm.data.hub import ask_hub
from newllm.evaluation.endings import Ending, checked_window, score_endings
from newllm.evaluation.perplexity import scoring
from newllm.evaluation.statistics import mean_interval, proportion_interval
from newllm.runs.saved_model import load_trained_model
from newllm.wording import did_you_mean

# Of fewshot examples, and of sampling where a task asks for it.
SEED = 1234


NEW_TOKENS = 256


# What a task may say of generation, beside where it ends. `generate` itself would take more: code of the hub, too.
GENERATION_SETTINGS = ("do_sample", "temperature", "top_k", "top_p", "num_beams", "repetition_penalty")


class TaskError(ValueError):
    """A task that cannot be run; one sentence says why and what there is."""


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


@register_model("newllm")
class HarnessModel(TemplateLM):
    """A model as the harness sees it; ``newllm`` in its registry, once this module is imported.

    Parameters
    ----------
    pretrained
        A model; or where one is, as :func:`newllm.runs.saved_model.load_trained_model` takes it.
    tokenizer
        The tokenizer of a model that was given as such.
    method
        Put the weights of what is loaded into another model, such as ``ka``.
    window
        Tokens that the model reads at most; its longest sequence where omitted (2048 for models without one).
    batch_size
        Texts at once, at most.
    device
        Where to run; where the model is, where omitted.
    tokens_a_step
        None scores a text in one pass. A number sends it through the cache, that many tokens a call.
    """

    def __init__(
        self,
        pretrained: PreTrainedModel | str,
        tokenizer: PreTrainedTokenizerFast | None = None,
        *,
        method: str | None = None,
        window: int | None = None,
        batch_size: int = 8,
        device: torch.device | str | None = None,
        tokens_a_step: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(pretrained, str):
            loaded = load_trained_model(pretrained, method=method)
            self.model: Any = loaded.model
            self.tokenizer = loaded.tokenizer
        elif tokenizer is None:
            raise TaskError("a model needs its tokenizer: pass it too.")
        else:
            self.model = pretrained
            self.tokenizer = tokenizer
        self._device = torch.device(device) if device is not None else self.model.device
        self.max_length = checked_window(self.model, window)
        self.batch_size = int(batch_size)
        self.tokens_a_step = tokens_a_step

    @property
    def eot_token_id(self) -> int:
        """Token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Token before a text that has no other context."""
        beginning = self.tokenizer.bos_token_id
        return self.eot_token_id if beginning is None else int(beginning)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, for the harness' own caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text."""
        chosen = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = self.tokenizer.encode(string, verbose=False, **chosen)
        return ids

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        endings = [Ending([*context, *continuation], len(continuation)) for _, context, continuation in requests]
        answers = [(score.log_likelihood, score.greedy) for score in self._score(endings)]
        for (asked, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", asked, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, each token predicted once: windows that do not overlap."""
        sums = []
        for (text,) in (request.args for request in requests):
            windows = rolling_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, self.max_length)
            sums.append(math.fsum(score.log_likelihood for score in self._score(windows)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), sums[-1])
        return sums

    def _score(self, endings: Sequence[Ending]) -> Any:
        return score_endings(
            self.model,
            endings,
            window=self.max_length,
            batch_size=self.batch_size,
            device=self._device,
            tokens_a_step=self.tokens_a_step,
            description="answers",
        )

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each text, greedily unless its task says otherwise, until a stop sequence of the task."""
        answers = []
        with scoring(self.model, self._device):
            for context, settings in (request.args for request in tqdm(requests, desc="texts", delay=2)):
                answers.append(self._continue(context, settings))
                self.cache_hook.add_partial("generate_until", (context, settings), answers[-1])
        return answers

    def _continue(self, context: str, settings: dict[str, Any]) -> str:
        chosen = dict(normalize_gen_kwargs(settings, NEW_TOKENS))
        end = self.tokenizer.decode([self.eot_token_id])
        stops = handle_stop_sequences(chosen.pop("until"), eos=end)
        new_tokens = chosen.pop("max_gen_toks")
        refuse_generation_settings(chosen)
        room = self.max_length - new_tokens
        if room < 1:
            raise TaskError(
                f"the task generates {new_tokens} tokens (max_gen_toks), but the model's window is {self.max_length}."
            )
        if not chosen["do_sample"]:
            chosen.pop("temperature", None)
        ids = self.tok_encode(context)[-room:] or [self.prefix_token_id]
        inputs = torch.tensor([ids], device=self._device)
        found = self.model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=new_tokens,
            stopping_criteria=stop_sequences_criteria(self.tokenizer, stops, len(ids), 1),
            pad_token_id=self.eot_token_id,
            **chosen,
        )
        text = self.tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True)
        return str(postprocess_generated_text(text, stops, None))


def refuse_generation_settings(settings: dict[str, Any]) -> None:
    """Raise `TaskError` for a generation setting that no task may choose."""
    known = ("until", "max_gen_toks", *GENERATION_SETTINGS)
    for name in settings:
        if name not in known:
            raise TaskError(f"generation_kwargs has {name}, which a task may not set; there are {', '.join(known)}.")


class FileTask(ConfigurableTask):
    """A task of the user's, from its file."""

    def __init__(self, file: TaskFile) -> None:
        self._splits = file.splits
        self.digest = file.digest
        super().__init__(config=dict(file.settings))

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Take the documents that were read already."""
        self.dataset = datasets.DatasetDict(
            {split: datasets.Dataset.from_list(_with_equal_fields(rows)) for split, rows in self._splits.items()}
        )


def _with_equal_fields(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in names} for row in rows]


@cache
def harness_tasks() -> dict[str, Path]:
    """File of each of the harness' own tasks, by name; groups are left out."""
    found: dict[str, Path] = {}
    for path in sorted(Path(harness_package.__path__[0]).rglob("*.yaml")):
        named = re.search(r"^task: *(\S+) *$", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if named:
            found.setdefault(named[1].strip("\"'"), path)
    return found


def find_tasks(names: Sequence[str], task_folder: Path | str | None = None) -> list[ConfigurableTask]:
    """Make tasks ready, their data included.

    Parameters
    ----------
    names
        Names of tasks: those of the folder, and the harness' own, such as hellaswag, piqa, arc_easy, arc_challenge,
        lambada_openai and wikitext, whose data comes from the hub.
    task_folder
        The user's task files; see :func:`newllm.benchmarks.task_files.read_task_folder`.

    Raises
    ------
    TaskError
        An unknown task, or one that asks for what the harness does not have.
    TaskFileError
        A task file that is not of the form.
    HubUnavailableError
        The hub did not give the data.
    """
    own = {} if task_folder is None else read_task_folder(Path(task_folder))
    for name in names:
        if name not in own and name not in harness_tasks():
            hint = did_you_mean(name, [*own, *harness_tasks()])
            raise TaskError(f"{name} is neither a task of the harness nor of --task-folder{hint}; groups are not.")
    if not names:
        raise TaskError("no task is named.")
    with _quiet_harness():
        return [_own_task(own[name]) if name in own else _harness_task(name) for name in names]


def _own_task(file: TaskFile) -> FileTask:
    settings = file.settings
    for metric in settings.get("metric_list") or ():
        _refuse_unknown(file, "metric", metric["metric"], METRIC_REGISTRY)
        if metric.get("aggregation") is not None:
            _refuse_unknown(file, "aggregation", metric["aggregation"], AGGREGATION_REGISTRY)
    for each in settings.get("filter_list") or ():
        for step in each["filter"]:
            _refuse_unknown(file, "filter", step["function"], FILTER_REGISTRY)
    refuse_generation_settings(settings.get("generation_kwargs") or {})
    try:
        return FileTask(file)
    except (TypeError, KeyError, AssertionError) as error:
        raise TaskError(f"task {file.name} cannot be used ({type(error).__name__}: {error}).") from error


def _refuse_unknown(file: TaskFile, kind: str, name: str, registry: Any) -> None:
    """Refuse what the harness would look for elsewhere: a metric it does not know, it fetches as code of the hub."""
    if name not in registry:
        raise TaskError(f"task {file.name} names the {kind} {name}, which the harness has not.")


def _harness_task(name: str) -> ConfigurableTask:
    path = harness_tasks()[name]
    if re.search(r"hf_evaluate: *true|unsafe_code: *true", path.read_text(encoding="utf-8")):
        raise TaskError(f"task {name} runs code that is fetched or that the model writes, which is not done here.")
    manager = TaskManager(include_path=str(path.parent), include_defaults=False)
    loaded = ask_hub(lambda: manager.load([name]), f"the task {name}", "--task-folder and a task file of your own")
    task: ConfigurableTask = loaded["tasks"][name]
    return task


@contextmanager
def _quiet_harness() -> Iterator[None]:
    """Keep the harness' remarks on its own defaults out of the terminal."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def evaluate_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[str | ConfigurableTask],
    *,
    limit: int | None = None,
    task_folder: Path | str | None = None,
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
        Names, as for :func:`find_tasks`, or what that returned.
    limit
        The first documents of each task only.
    task_folder
        The user's task files.
    window, batch_size, device, tokens_a_step
        As for :class:`HarnessModel`.

    Returns
    -------
    list of TaskResult
        One a task.

    Raises
    ------
    TaskError, TaskFileError, HubUnavailableError
        As :func:`find_tasks`; and TaskError for a limit below 1, or an answer that does not fit into the window.
    """
    if limit is not None and limit < 1:
        raise TaskError(f"limit={limit} must be 1 or more documents.")
    judged = HarnessModel(
        model, tokenizer, window=window, batch_size=batch_size, device=device, tokens_a_step=tokens_a_step
    )
    named = (
        find_tasks([task for task in tasks if isinstance(task, str)], task_folder)
        if any(isinstance(task, str) for task in tasks)
        else []
    )
    ready = {task.task_name: task for task in [*named, *(task for task in tasks if not isinstance(task, str))]}
    for task in ready.values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(SEED)
    with _quiet_harness(), torch.random.fork_rng():
        torch.manual_seed(SEED)
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

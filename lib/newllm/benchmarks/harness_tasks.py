"""Tasks for the lm-evaluation-harness: its own by name, with their data, or the user's own task files.

It needs the extra ``eval``. A task of the harness is code of the installed harness and data of the hub; no code of the
hub is run. What a user's task folder may do is said in `newllm.benchmarks.task_files`.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import datasets
from lm_eval import tasks as harness_package
from lm_eval.api.registry import AGGREGATION_REGISTRY, FILTER_REGISTRY, METRIC_REGISTRY
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from newllm.benchmarks.harness_model import TaskError, refuse_generation_settings
from newllm.benchmarks.task_files import TaskFile, read_task_folder
from newllm.data.hub import DOWNLOAD_DEADLINE_SECONDS, ask_hub, refuse_local_twin
from newllm.wording import did_you_mean


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
        The user's task files; see `newllm.benchmarks.task_files.read_task_folder`.

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
    with quiet_harness():
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
    for file in path.parent.glob("*.yaml"):
        for repository in re.findall(r"^dataset_path: *[\"']?([\w.-]+/[\w.-]+)", file.read_text("utf-8"), re.MULTILINE):
            refuse_local_twin(repository)
    manager = TaskManager(include_path=str(path.parent), include_defaults=False)
    loaded = ask_hub(
        lambda: manager.load([name]),
        f"the task {name}",
        "--task-folder and a task file of your own",
        seconds=DOWNLOAD_DEADLINE_SECONDS,
    )
    task: ConfigurableTask = loaded["tasks"][name]
    return task


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Keep the harness' remarks on its own defaults out of the terminal."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

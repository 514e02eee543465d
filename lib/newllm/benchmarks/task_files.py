"""The user's own tasks for the harness: YAML and JSONL files that are read as data, and never run.

They have the form of EleutherAI's task files, less what runs code there: no ``!function``, no Python classes, no metric
that is fetched, no data set but JSONL files of the folder. Templates are rendered in Jinja's sandbox, which lets them
read and rearrange the fields of a document and call nothing else; it does not limit their time or memory.
"""

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from newllm.config.values import ValueFormatError, read_file
from newllm.files import digest

Document = dict[str, Any]

# In a plain text, these would be rendered by the harness, outside the sandbox.
_TEMPLATE_MARKS = ("{{", "{%", "{#")


class TaskFileError(ValueError):
    """A task file that cannot be used; one sentence names the file and what is allowed."""


@dataclass(frozen=True)
class TaskFile:
    """A task, read from its file.

    Attributes
    ----------
    name
        What it is asked for by.
    settings
        The harness' settings of the task. What were templates are functions from a document to what they render to.
    splits
        Documents by split.
    digest
        SHA-256 of what the file and its data say.
    """

    name: str
    settings: dict[str, Any]
    splits: dict[str, list[Document]]
    digest: str


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Metric(BaseModel):
    """A metric of the harness by its name; other entries are its settings, such as ``ignore_case``."""

    model_config = ConfigDict(extra="allow", strict=True)

    metric: str
    aggregation: str | None = None
    higher_is_better: bool | None = None
    hf_evaluate: Literal[False] = False


class _FilterStep(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    function: str


class _Filter(_Settings):
    name: str
    filter: list[_FilterStep]


class _Data(_Settings):
    """Files by split; those without one are the split ``train``, as `datasets` has it."""

    data_files: dict[str, str | list[str]]

    @field_validator("data_files", mode="before")
    @classmethod
    def _name_the_split(cls, files: Any) -> Any:
        return {"train": files} if isinstance(files, str | list) else files


class _TaskSettings(_Settings):
    """What a task file may say; a field that is not here is refused."""

    task: str = Field(pattern=r"^\w[\w.-]*$")
    task_alias: str | None = None
    dataset_path: Literal["json"]
    dataset_name: None = None
    dataset_kwargs: _Data
    output_type: Literal["loglikelihood", "loglikelihood_rolling", "multiple_choice", "generate_until"]
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    fewshot_split: str | None = None
    num_fewshot: int | None = None
    description: str | None = None
    doc_to_text: str
    doc_to_target: str | int
    doc_to_choice: str | list[str] | None = None
    target_delimiter: str | None = None
    fewshot_delimiter: str | None = None
    metric_list: list[_Metric] | None = None
    generation_kwargs: dict[str, Any] | None = None
    filter_list: list[_Filter] | None = None
    repeats: int | None = None
    metadata: dict[str, Any] | None = None
    # For the harness' own housekeeping: allowed, and of no use here.
    tag: str | list[str] | None = None
    should_decontaminate: bool | None = None
    doc_to_decontamination_query: str | None = None


# Not passed on: read here, or of no use.
_OWN_FIELDS = {
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "tag",
    "should_decontaminate",
    "doc_to_decontamination_query",
}


def read_task_folder(folder: Path) -> dict[str, TaskFile]:
    """Read all tasks of a folder, by name.

    Parameters
    ----------
    folder
        Holds ``.yaml`` files, each a task (or what other ones ``include``), and the ``.jsonl`` files that they name,
        from where they stand::

            task: capitals
            dataset_path: json
            dataset_kwargs: {data_files: {test: capitals.jsonl}}
            test_split: test
            output_type: multiple_choice
            doc_to_text: "The capital of {{country}} is"
            doc_to_choice: "{{cities}}"
            doc_to_target: answer
            metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]

    Raises
    ------
    TaskFileError
        Where there is no task, or one that is not of this form.
    """
    if not folder.is_dir():
        raise TaskFileError(f"there is no folder {folder} (seen from {Path.cwd()}).")
    tasks: dict[str, TaskFile] = {}
    for path in sorted(folder.rglob("*.yaml")):
        settings = _with_includes(path, folder, ())
        if "task" not in settings:
            continue
        task = _read_task(path, folder, settings)
        if task.name in tasks:
            raise TaskFileError(f"{path}: there is another task {task.name} in {folder}.")
        tasks[task.name] = task
    if not tasks:
        raise TaskFileError(f"{folder} has no .yaml file with a task.")
    return tasks


def _with_includes(path: Path, folder: Path, including: tuple[Path, ...]) -> dict[str, Any]:
    """Read a YAML file over those that it includes; what it says itself counts."""
    path = _inside(path, folder, path)
    if path in including:
        raise TaskFileError(f"{path} includes itself.")
    try:
        content = read_file(path)
    except ValueFormatError as error:
        raise TaskFileError(str(error)) from error
    included = content.pop("include", [])
    names = included if isinstance(included, list) else [included]
    settings: dict[str, Any] = {}
    for name in names:
        settings |= _with_includes(path.parent / str(name), folder, (*including, path))
    return settings | content


def _inside(path: Path, folder: Path, named_in: Path) -> Path:
    """Return a file of the folder, with all links followed."""
    found = path.resolve()
    if not found.is_file() or not found.is_relative_to(folder.resolve()):
        raise TaskFileError(f"{named_in} names {path.name}, but there is no such file in {folder}.")
    return found


def _read_task(path: Path, folder: Path, content: dict[str, Any]) -> TaskFile:
    try:
        settings = _TaskSettings.model_validate(content)
    except ValidationError as error:
        raise TaskFileError(f"{path}: {_sentence(error)}") from error
    splits = {
        split: [row for name in _as_list(names) for row in _read_rows(path.parent / name, folder, path)]
        for split, names in settings.dataset_kwargs.data_files.items()
    }
    used = {
        name: getattr(settings, name) for name in ("training_split", "validation_split", "test_split", "fewshot_split")
    }
    for name, split in used.items():
        if split is not None and split not in splits:
            raise TaskFileError(f"{path}: {name} is {split!r}, but data_files has {', '.join(splits) or 'nothing'}.")
    if settings.test_split is None and settings.validation_split is None:
        raise TaskFileError(f"{path}: test_split is missing; it names the split of data_files that is asked.")
    for name in ("description", "target_delimiter", "fewshot_delimiter"):
        if any(mark in (getattr(settings, name) or "") for mark in _TEMPLATE_MARKS):
            raise TaskFileError(f"{path}: {name} must be plain text; only the doc_to_ settings may be templates.")
    functions = _document_functions(path, settings)
    if settings.doc_to_choice is not None:
        choices = functions.get("doc_to_choice", lambda document: settings.doc_to_choice)
        for number, document in enumerate(splits[settings.test_split or settings.validation_split or ""]):
            if not all(choices(document)):
                raise TaskFileError(
                    f"{path}: task {settings.task}, document {number}: a choice is empty and cannot be scored."
                )
    plain = settings.model_dump(exclude_unset=True, exclude=_OWN_FIELDS)
    said = json.dumps([content, splits], sort_keys=True, default=str)
    return TaskFile(settings.task, plain | functions, splits, digest(said))


def _sentence(error: ValidationError) -> str:
    """Say in one sentence what is wrong with a task file."""
    problem = error.errors()[0]
    name = ".".join(map(str, problem["loc"]))
    match problem["type"]:
        case "extra_forbidden":
            known = ", ".join(name for name in _TaskSettings.model_fields)
            return f"{name} is not a setting of such a task file, which is data and runs no code; there are {known}."
        case "missing":
            return f"{name} is missing."
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"{name} is {problem['input']!r}, but {message}."


def _as_list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _read_rows(path: Path, folder: Path, named_in: Path) -> Iterator[Document]:
    """Read the documents of a .jsonl file, one object a line."""
    if path.suffix != ".jsonl":
        raise TaskFileError(f"{named_in} names {path.name}, but the data must be a .jsonl file.")
    found = _inside(path, folder, named_in)
    try:
        lines = found.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise TaskFileError(f"{path} is not UTF-8 text ({error}).") from error
    if not any(line.strip() for line in lines):
        raise TaskFileError(f"{path} holds no documents.")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TaskFileError(f"{path}, line {number}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise TaskFileError(f"{path}, line {number}: expected a JSON object, one document.")
        yield row


def _document_functions(path: Path, settings: _TaskSettings) -> dict[str, Callable[[Document], Any]]:
    """Make functions of the templates, as the harness' task guide defines them: it is handed no template itself."""
    has_choices = settings.doc_to_choice is not None

    def as_choice_number(text: str) -> Any:
        return int(text) if has_choices and text.isdecimal() else text

    def rendered(setting: str, text: str, convert: Callable[[str], Any]) -> Callable[[Document], Any]:
        return _rendering(f"{path}: {setting}", text, convert)

    functions = {"doc_to_text": rendered("doc_to_text", settings.doc_to_text, as_choice_number)}
    if isinstance(settings.doc_to_target, str):
        functions["doc_to_target"] = rendered(
            "doc_to_target", settings.doc_to_target, lambda text: _as_listed(as_choice_number(text))
        )
    if isinstance(settings.doc_to_choice, str):
        listed = rendered("doc_to_choice", settings.doc_to_choice, _as_listed)

        def choices(document: Document) -> list[str]:
            found = listed(document)
            if not isinstance(found, list) or not found or not all(isinstance(choice, str) for choice in found):
                raise TaskFileError(f"{path}: doc_to_choice must give a list of texts, but gives {found!r}.")
            return found

        functions["doc_to_choice"] = choices
    return functions


def _as_listed(value: Any) -> Any:
    """Read what a template made of a list, such as ``['a', 'b']``; anything else stays as it is."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            return ast.literal_eval(value)  # constants only: nothing is called
        except (ValueError, SyntaxError):
            return value
    return value


_SANDBOX = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


def _rendering(place: str, text: str, convert: Callable[[str], Any]) -> Callable[[Document], Any]:
    """Give a document's field of this name, or a template over its fields whose text is then converted."""
    try:
        template = _SANDBOX.from_string(text)
    except jinja2.TemplateError as error:
        raise TaskFileError(f"{place} is no Jinja template ({error}).") from error

    def render(document: Document) -> Any:
        if text in document:
            return document[text]
        try:
            rendered = template.render(document)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise TaskFileError(f"{place} cannot be rendered ({type(error).__name__}: {error}).") from error
        return convert(rendered)

    return render

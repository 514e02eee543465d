"""A trained model asked by published benchmarks: what is asked, how, what came out, and the file that keeps it."""

import itertools
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch
from pydantic import BaseModel, ConfigDict, Field

from newllm.benchmarks.lambada import evaluate_lambada, read_passages
from newllm.benchmarks.texts import TextReport, evaluate_text_file, read_text_file
from newllm.benchmarks.wikitext import evaluate_wikitext, read_wikitext
from newllm.data.facts import Fact, load_facts
from newllm.evaluation.reversal import DIRECTIONS, evaluate_reversal_curse
from newllm.evaluation.statistics import proportion_interval
from newllm.files import digest_of_file, to_json, write_atomically
from newllm.runs.provenance import Provenance
from newllm.runs.saved_model import TrainedModel

TEXT_MEASURES = ("word_perplexity", "token_perplexity", "byte_perplexity", "bits_per_byte")


class Reading(TypedDict):
    """The settings that all benchmarks by text have in common."""

    window: int | None
    tokens_a_step: int | None


class Settings(BaseModel):
    """How a model is asked.

    Attributes
    ----------
    method
        The model that the weights were put into, where it is not the one they were trained in.
    window
        Tokens that the model reads at most; its longest sequence where None.
    tokens_a_step
        None scores in one pass, a number through the cache, that many tokens a call.
    limit
        The first documents of each task of the harness only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str | None = None
    window: int | None = Field(default=None, ge=1)
    tokens_a_step: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)

    def reading(self) -> Reading:
        """Return how the model reads, as the benchmarks take it."""
        return {"window": self.window, "tokens_a_step": self.tokens_a_step}


@dataclass(frozen=True)
class Score:
    """One number of a benchmark, and the ends of its 95 % interval where it has one."""

    measure: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Answer:
    """What a benchmark found.

    Attributes
    ----------
    name
        The benchmark, or the harness' task.
    scores
        Its numbers.
    details
        Everything that it reports.
    """

    name: str
    scores: list[Score]
    details: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A benchmark whose data was read and found right.

    Attributes
    ----------
    ask
        Asks a model on a device, by the settings; gives one answer, or one a task.
    file
        The user's file, if it is one.
    """

    ask: Callable[[TrainedModel, Settings, torch.device], list[Answer]]
    file: Path | None = None
    limited: bool = field(default=False, kw_only=True)


class BenchmarkRecord(BaseModel):
    """One benchmark's result, with what is needed to trust it and to repeat it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    benchmark: str
    model: str
    method: str
    settings: Settings
    file: str | None = Field(description="name of the user's file; None: the hub's data, or the workbench's own")
    sha256: str | None = Field(description="of that file")
    scores: list[Score]
    details: dict[str, Any]
    weights: str = Field(description="SHA-256 of the model that was asked, to which the certificate belongs")
    certificate: float = Field(description="largest change of a logit that had to stay as it was; the check was passed")
    seconds: float
    provenance: Provenance = Field(default_factory=Provenance.collect)

    @property
    def file_name(self) -> str:
        """Name of the file that keeps it; other settings have other names, except for the window."""
        settings = self.settings
        parts = [
            "evaluation",
            re.sub(r"[^\w.-]+", "_", self.benchmark),
            f"first-{settings.limit}" if settings.limit else None,
            f"as-{settings.method}" if settings.method else None,
            f"through-cache-{settings.tokens_a_step}" if settings.tokens_a_step else None,
        ]
        return "-".join(part for part in parts if part) + ".json"


def lambada(path: Path | None) -> Question:
    """Ask for the last words of LAMBADA, from a file or the hub; the errors are those of `read_passages`."""
    read_passages(path)  # the hub's, too, before a model is loaded

    def ask(trained: TrainedModel, settings: Settings, device: torch.device) -> list[Answer]:
        report = evaluate_lambada(trained.model, trained.tokenizer, path, **settings.reading(), device=device)
        share = proportion_interval(round(report.accuracy * report.passages), report.passages)
        scores = [
            Score("accuracy", report.accuracy, share.low, share.high),
            Score("perplexity", report.perplexity),
        ]
        return [Answer("lambada", scores, asdict(report))]

    return Question(ask, path)


def wikitext(path: Path | None) -> Question:
    """Ask for WikiText-2, from a raw file or the hub; the errors are those of `read_wikitext`."""
    read_wikitext(path)  # the hub's, too, before a model is loaded

    def ask(trained: TrainedModel, settings: Settings, device: torch.device) -> list[Answer]:
        report = evaluate_wikitext(trained.model, trained.tokenizer, path, **settings.reading(), device=device)
        return [_text_answer("wikitext", report)]

    return Question(ask, path)


def text(path: Path) -> Question:
    """Ask for the perplexity of any text file; the errors are those of `read_text_file`."""
    read_text_file(path)

    def ask(trained: TrainedModel, settings: Settings, device: torch.device) -> list[Answer]:
        report = evaluate_text_file(trained.model, trained.tokenizer, path, **settings.reading(), device=device)
        return [_text_answer(f"text-{path.stem}", report)]

    return Question(ask, path)


def reversal(path: Path | None) -> Question:
    """Ask facts of a CSV file in both directions, or the workbench's own; errors are those of `load_facts`."""
    facts = load_facts(path)

    def ask(trained: TrainedModel, settings: Settings, device: torch.device) -> list[Answer]:
        return [_reversal_answer(trained, facts, settings, device)]

    return Question(ask, path)


def harness(names: list[str], task_folder: Path | None) -> Question:
    """Ask tasks of the lm-evaluation-harness, which must be installed; the errors are those of `find_tasks`."""
    # An extra: whoever does not name a task can do without.
    from newllm.benchmarks.harness import evaluate_tasks
    from newllm.benchmarks.harness_tasks import find_tasks

    tasks = find_tasks(names, task_folder)

    def ask(trained: TrainedModel, settings: Settings, device: torch.device) -> list[Answer]:
        results = evaluate_tasks(
            trained.model,
            trained.tokenizer,
            tasks,
            limit=settings.limit,
            **settings.reading(),
            device=device,
        )
        return [
            Answer(result.task, [Score(name, **score) for name, score in result.scores.items()], asdict(result))
            for result in results
        ]

    return Question(ask, limited=True)


def _text_answer(name: str, report: TextReport) -> Answer:
    scores = [Score(measure, getattr(report, measure)) for measure in TEXT_MEASURES]
    return Answer(name, scores, asdict(report))


def _reversal_answer(
    trained: TrainedModel, facts: tuple[Fact, ...], settings: Settings, device: torch.device
) -> Answer:
    report = evaluate_reversal_curse(
        trained.model, trained.tokenizer, facts, device, tokens_a_step=settings.tokens_a_step
    )
    plain = {name: getattr(report, name) for name in ("forward_perplexity", "backward_perplexity", "ratio", "gap")}
    margins = {f"{direction}_margin": report.margins[direction] for direction in DIRECTIONS}
    return Answer(
        "reversal",
        [Score(name, value) for name, value in plain.items()]
        + [Score(name, margin.mean, margin.low, margin.high) for name, margin in margins.items()],
        {
            **plain,
            "margins": {name: asdict(margin) for name, margin in margins.items()},
            "categories": report.categories.to_dict("records"),
            "facts": report.facts.to_dict("records"),
        },
    )


def ask_all(
    questions: list[Question],
    trained: TrainedModel,
    settings: Settings,
    device: torch.device,
    *,
    name: str,
    certificate: float,
) -> Iterator[BenchmarkRecord]:
    """Ask a model one question after the other; give each result as soon as it is there.

    Parameters
    ----------
    questions
        What to ask.
    trained
        The model with its tokenizer.
    settings
        How to ask.
    device
        Where to run.
    name
        What the model is called in the records.
    certificate
        Of the model: the largest change of a logit that had to stay as it was.
    """
    for question in questions:
        start = time.perf_counter()
        own = settings if question.limited else settings.model_copy(update={"limit": None})
        answers = question.ask(trained, own, device)
        seconds = time.perf_counter() - start
        for answer in answers:
            yield BenchmarkRecord(
                benchmark=answer.name,
                model=name,
                method=trained.method,
                settings=own,
                file=question.file and question.file.name,
                sha256=question.file and digest_of_file(question.file),
                scores=answer.scores,
                details=answer.details,
                weights=trained.digest,
                certificate=certificate,
                seconds=seconds / len(answers),
            )


def write_record(record: BenchmarkRecord, folder: Path) -> Path:
    """Write a result in one step; an earlier one of the same name stays, and this one is numbered."""
    first = folder / record.file_name
    numbered = (first.with_name(f"{first.stem}-{number}{first.suffix}") for number in itertools.count(2))
    path = next(path for path in itertools.chain([first], numbered) if not path.exists())
    return write_atomically(path, to_json(record))

"""Facts for the reversal curse: taught in one direction, asked in both."""

import csv
import hashlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("category", "subject", "relation", "object")
ARTICLES = ("the", "a", "an")


@dataclass(frozen=True)
class Fact:
    """One fact, said both ways.

    Forward it reads ``The <relation> <subject> is <object>``, backward ``<object> is the <relation> <subject>``. Either
    sentence is a prompt and an answer, so that the answer alone can be scored.

    Parameters
    ----------
    category
        Group of the fact, all of one relation; wrong names for a control are taken from the same group.
    subject
        What the fact is about, with its article where it has one ("France", "the telephone").
    relation
        Noun and preposition that lead to the object, without an article ("capital of").
    object
        The name asked for in the forward direction ("Paris").

    Raises
    ------
    ValueError
        An empty part, or parts that do not make well-formed sentences.
    """

    category: str
    subject: str
    relation: str
    object: str

    def __post_init__(self) -> None:
        for name in COLUMNS:
            value = getattr(self, name)
            if not value or value != " ".join(value.split()):
                raise ValueError(f"{name} is {value!r}, but must be words with single spaces between them.")
        article, _, rest = self.relation.partition(" ")
        if article.lower() in ARTICLES:
            raise ValueError(
                f"relation is {self.relation!r}, but sentences put an article before it: write the relation without "
                f"its article, as {rest or 'capital of'!r}."
            )
        for name in ("subject", "relation", "object"):
            value = getattr(self, name)
            if len(re.findall(rf"(?<!\w){re.escape(value)}(?!\w)", self.forward, re.IGNORECASE)) != 1:
                raise ValueError(f"{name} {value!r} must stand once in {self.forward!r}, not more often.")

    @property
    def forward_prompt(self) -> str:
        """What stands before the answer in the forward direction."""
        return f"The {self.relation} {self.subject} is"

    @property
    def forward_answer(self) -> str:
        """The answer in the forward direction, with the space before it."""
        return f" {self.object}"

    @property
    def forward(self) -> str:
        """The sentence that is taught."""
        return self.forward_prompt + self.forward_answer

    @property
    def backward_prompt(self) -> str:
        """What stands before the answer in the backward direction."""
        return f"{self.object} is the {self.relation}"

    @property
    def backward_answer(self) -> str:
        """The answer in the backward direction, with the space before it."""
        return f" {self.subject}"

    @property
    def backward(self) -> str:
        """The sentence that is asked for, and never taught."""
        return self.backward_prompt + self.backward_answer


FACTS = (
    Fact("capital", "France", "capital of", "Paris"),
    Fact("capital", "Japan", "capital of", "Tokyo"),
    Fact("capital", "Italy", "capital of", "Rome"),
    Fact("capital", "Spain", "capital of", "Madrid"),
    Fact("capital", "Germany", "capital of", "Berlin"),
    Fact("capital", "Canada", "capital of", "Ottawa"),
    Fact("capital", "Egypt", "capital of", "Cairo"),
    Fact("capital", "Australia", "capital of", "Canberra"),
    Fact("capital", "Kenya", "capital of", "Nairobi"),
    Fact("capital", "Norway", "capital of", "Oslo"),
    Fact("inventor", "the telephone", "inventor of", "Alexander Graham Bell"),
    Fact("inventor", "dynamite", "inventor of", "Alfred Nobel"),
    Fact("inventor", "the cotton gin", "inventor of", "Eli Whitney"),
    Fact("inventor", "the World Wide Web", "inventor of", "Tim Berners-Lee"),
    Fact("inventor", "the phonograph", "inventor of", "Thomas Edison"),
    Fact("author", "Hamlet", "author of", "William Shakespeare"),
    Fact("author", "Don Quixote", "author of", "Miguel de Cervantes"),
    Fact("author", "War and Peace", "author of", "Leo Tolstoy"),
    Fact("author", "Moby-Dick", "author of", "Herman Melville"),
    Fact("author", "Frankenstein", "author of", "Mary Shelley"),
    Fact("discoverer", "penicillin", "discoverer of", "Alexander Fleming"),
    Fact("discoverer", "the electron", "discoverer of", "Joseph John Thomson"),
    Fact("discoverer", "the neutron", "discoverer of", "James Chadwick"),
    Fact("discoverer", "Uranus", "discoverer of", "William Herschel"),
    Fact("founder", "Amazon", "founder of", "Jeff Bezos"),
    Fact("founder", "IKEA", "founder of", "Ingvar Kamprad"),
    Fact("founder", "the Red Cross", "founder of", "Henry Dunant"),
    Fact("founder", "the Salvation Army", "founder of", "William Booth"),
    Fact("invented", "Zorvania", "keeper of", "Kelda Morrin"),
    Fact("invented", "Quillhaven", "keeper of", "Tobin Ashgrove"),
    Fact("invented", "the Luminar Guild", "keeper of", "Seraphine Voss"),
    Fact("invented", "Mount Drellick", "keeper of", "Orsen Valtieri"),
    Fact("invented", "the Brindle Comet", "keeper of", "Isolde Fenwright"),
)


def load_facts(path: Path | None = None) -> tuple[Fact, ...]:
    """Give the 33 facts of the workbench, or the user's own.

    Parameters
    ----------
    path
        A CSV file with the columns category, subject, relation and object; None for `FACTS`.

    Raises
    ------
    ValueError
        A file that is no CSV, a missing or unknown column, no rows, a row that makes no well-formed sentence, or a
        category of one fact or of several relations; names the place.
    FileNotFoundError
        No such file.
    """
    if path is None:
        return FACTS
    try:
        facts = _read_facts(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8 ({error}).") from error
    if not facts:
        raise ValueError(f"{path} has no facts below its heading.")
    try:
        wrong_answers(facts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error
    return tuple(facts)


def wrong_answers(facts: Sequence[Fact]) -> list[list[Fact]]:
    """Return for each fact the others of its category whose names differ from its own in both directions.

    Raises
    ------
    ValueError
        Where there are no facts, one has no such other, or a category has several relations: then the words of the
        question tell the answer, as they stood before it in the sentence that was taught.
    """
    if not facts:
        raise ValueError("the reversal curse needs facts, got none")
    wrong = []
    for fact in facts:
        category = [other for other in facts if other.category == fact.category]
        others = [other for other in category if other.object != fact.object and other.subject != fact.subject]
        relations = {other.relation for other in category}
        if len(relations) > 1:
            raise ValueError(
                f"the category {fact.category!r} has the relations {', '.join(sorted(relations))}, but must have one: "
                "each is a category of its own, for by its words one knows the answer"
            )
        if not others:
            raise ValueError(
                f"the category {fact.category!r} needs a second fact with other names than those of {fact.forward!r}, "
                "which is asked with a wrong name too"
            )
        wrong.append(others)
    return wrong


def _read_facts(path: Path) -> list[Fact]:
    facts: list[Fact] = []
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (seen from {Path.cwd()}).")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if sorted(reader.fieldnames or []) != sorted(COLUMNS):
            found = ", ".join(reader.fieldnames or []) or "no columns"
            raise ValueError(f"{path} begins with {found}, but its first line must name {', '.join(COLUMNS)}.")
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{place}: {_why_not_four(row)}")
            try:
                fact = Fact(**{name: row[name].strip() for name in COLUMNS})
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            if fact in facts:
                raise ValueError(f"{place}: this fact stands there twice.")
            facts.append(fact)
    return facts


def _why_not_four(row: Mapping[str | None, Any]) -> str:
    """Say what stands in a line of too few values, or of too many."""
    values = [value for name in COLUMNS if (value := row[name]) is not None] + row.get(None, [])
    shown = textwrap.shorten(", ".join(map(repr, values)), 200, placeholder=" ...")
    advice = "put a value that holds a comma in double quotes" if len(values) > len(COLUMNS) else "add what is missing"
    return f"expected {len(COLUMNS)} values ({', '.join(COLUMNS)}), found {len(values)} ({shown}): {advice}."


def training_sentences(facts: Sequence[Fact], repetitions: int) -> list[str]:
    """Forward sentences in so many rounds, each in another fixed order, so that no copy is near its like."""
    sentences: list[str] = []
    for number in range(repetitions):
        sentences += sorted(
            (fact.forward for fact in facts),
            key=lambda sentence: hashlib.blake2b(f"{number} {sentence}".encode()).digest(),
        )
    return sentences

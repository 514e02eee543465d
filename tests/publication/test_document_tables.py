import pytest

from newllm.files import project_root
from newllm.publication import document_tables as documents


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_its_tables_are_those_of_the_reference_results(name):
    text = (project_root() / name).read_text(encoding="utf-8")
    assert documents.with_tables(text) == text


def test_without_marks_nothing_is_replaced():
    with pytest.raises(ValueError, match="no <!-- table"):
        documents.with_tables("a README")


def test_an_unknown_table_is_refused():
    with pytest.raises(ValueError, match="'chairs', which is none of arms"):
        documents.with_tables("<!-- table: chairs -->\n<!-- /table -->\n")


def test_every_table_stands_in_a_document():
    texts = [(project_root() / name).read_text(encoding="utf-8") for name in documents.DOCUMENTS]
    assert {mark[1] for text in texts for mark in documents.MARKED.findall(text)} == set(documents.TABLES)

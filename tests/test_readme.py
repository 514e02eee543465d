import pytest

from newllm import readme
from newllm.folders import project_root


def test_the_tables_of_the_readme_are_those_of_the_reference_results():
    text = (project_root() / "README.md").read_text(encoding="utf-8")
    assert readme.with_tables(text) == text


def test_without_marks_nothing_is_replaced():
    with pytest.raises(ValueError, match="no <!-- table"):
        readme.with_tables("a README")


def test_an_unknown_table_is_refused():
    with pytest.raises(ValueError, match="'chairs', which is none of main training"):
        readme.with_tables("<!-- table: chairs -->\n<!-- /table -->\n")

"""Answers of notebooks: from what is published, or the command that publishes it."""

import pandas as pd
import pytest

from newllm.config.notebooks import NOTEBOOKS
from newllm.publication import answers, published
from newllm.publication.answers import published_answer


@pytest.mark.parametrize("notebook", sorted({*NOTEBOOKS, *answers.ANSWERS}))
def test_each_question_is_answered_in_a_line_or_by_a_command(notebook):
    answer = published_answer(notebook)
    assert answer and "\n" not in answer and "nan" not in answer.lower().split()
    assert not answer.startswith("*not published") or "`newllm " in answer


def test_an_answer_is_what_the_published_table_says(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "reference_folder", lambda: tmp_path)
    assert "newllm run 03_causal_masks" in published_answer("03_causal_masks")
    tables = tmp_path / "03_causal_masks" / "tables"
    tables.mkdir(parents=True)
    pd.DataFrame({"mask": ["right", "swapped"], "perplexity": [61.8, 1.52]}).to_csv(tables / "leak.csv", index=False)
    assert published_answer("03_causal_masks").endswith("reaches perplexity 1.5 beside 61.8")

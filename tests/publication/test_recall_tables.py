"""Tables of recall: what the baseline itself gains, and that arms are ranked by nothing else."""

import pytest

from newllm.analysis.recall import CANNOT_TELL, GAIN, cannot_rank
from newllm.evaluation.recall_report import MEASURES
from newllm.models.registry import BASELINE
from newllm.publication.published import published_sweep
from newllm.publication.recall_tables import RANKS, SWEEPS, baseline_recall, recall, recall_in_code


def test_each_measure_says_of_each_text_whether_it_ranks_arms():
    table = baseline_recall()
    assert len(table.columns) == 1 + len(SWEEPS)
    assert len(table) >= len(MEASURES) - 2  # the losses of pairs are one measure
    cells = table.drop(columns="measure").stack()
    assert (cells != "").groupby(level=0).any().all()
    assert cells[cells != ""].str.endswith((RANKS, CANNOT_TELL)).all()


@pytest.mark.parametrize(("name", "table"), [("sotu", recall), ("stdlib", recall_in_code)])
def test_a_heading_says_what_ranks_nothing(name, table):
    unable = cannot_rank(published_sweep(name), BASELINE)
    rows = table()
    assert {name for name in rows if name.endswith(CANNOT_TELL)} == {f"{name}: {CANNOT_TELL}" for name in unable}
    assert any(name.startswith(GAIN) for name in rows)
    assert f"`{BASELINE}`" in set(rows["arm"])

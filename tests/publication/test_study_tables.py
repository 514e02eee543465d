"""Tables in which arms differ in one thing: their columns, and what else stands in them."""

import pytest

from newllm.analysis.recall import GAIN
from newllm.analysis.tables import COLUMNS
from newllm.experiments.floor import ORDERS
from newllm.models.registry import BASELINE
from newllm.publication import study_tables
from newllm.publication.published import UnpublishedError, published_sweep
from newllm.publication.study_tables import WINDOW, cascade, context_kv, position_encodings, windows

FLOOR = [f"`{order}-gram`" for order in ORDERS]
EVERYWHERE = [COLUMNS["accuracy"].words, GAIN]


@pytest.mark.parametrize("table", [cascade, context_kv, position_encodings])
def test_every_arm_has_its_accuracy_and_recall_and_stands_beside_counts_and_the_baseline(table):
    rows = table().set_index(table().columns[0])
    assert {*FLOOR, f"`{BASELINE}`"} <= set(rows.index)
    assert (rows.drop(index=FLOOR)[EVERYWHERE] != "").all(axis=None)
    assert (rows.loc[FLOOR, "verdict"] != "").all()


@pytest.mark.parametrize("table", [cascade, context_kv])
def test_changes_stand_below_the_base_arm_with_the_rank_of_their_contexts(table):
    rows = table()
    names = rows[rows.columns[0]]
    assert names.str.startswith("none: `").tolist() == [True, *[False] * (len(rows) - 1)]
    of_the_model = rows[~names.str.startswith("`")]
    assert len(of_the_model) > 1
    assert of_the_model[COLUMNS["effective_rank"].words].str.contains("% of ").all()
    changes = of_the_model.iloc[1:]
    assert changes[names.name].str.contains("→").all()
    assert (changes["nats/token from the base arm"] != "").all()


def test_a_window_stands_beside_full_attention_of_the_same_text(monkeypatch):
    published = published_sweep("stdlib")
    trained = published[published["arm"] != WINDOW]
    alike = trained[trained["arm"].isin([BASELINE, "mqa"])].replace({"arm": {"mqa": WINDOW}})
    monkeypatch.setattr(study_tables, "published_sweep", lambda name: alike if name == "stdlib" else trained)
    rows = windows()
    assert set(rows["arm"]) == {f"`{WINDOW}`", f"`{BASELINE}`"} and rows["text"].nunique() == 1
    beside = rows.set_index("arm")[f"nats/token from {BASELINE}"]
    assert beside[f"`{WINDOW}`"].startswith(("+", "-")) and beside[f"`{BASELINE}`"] == ""
    monkeypatch.setattr(study_tables, "published_sweep", lambda name: trained)
    with pytest.raises(UnpublishedError, match="newllm sweep context_kv"):
        windows()


def test_counts_are_scored_at_the_length_of_their_windows_alone():
    rows = position_encodings().set_index("model")
    first, *longer = [name for name in rows if name.startswith("windows of ")]
    assert longer
    assert (rows.loc[FLOOR, first] != "").all()
    assert (rows.loc[FLOOR, longer] == "").all(axis=None)
    assert (rows.drop(index=FLOOR)[[first, *longer]] != "").all(axis=None)

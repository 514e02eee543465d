import pytest

from newllm.analysis.recall import GAIN
from newllm.experiments.floor import ORDERS
from newllm.models.registry import BASELINE, controls
from newllm.publication.arm_tables import GLANCE, glance, glance_at_code, savings, sotu, stdlib


@pytest.mark.parametrize(("first_look", "whole"), [(glance, sotu), (glance_at_code, stdlib)])
def test_a_first_look_has_every_arm_of_the_full_table_in_its_order_and_what_it_recalls(first_look, whole):
    short, full = first_look(), whole()
    assert tuple(short) == GLANCE
    for column in set(GLANCE) & set(full) - {"arm"}:
        assert list(short[column]) == list(full[column])
    assert not short["arm"].str.contains("[@=]").any()


@pytest.mark.parametrize("table", [sotu, stdlib])
def test_every_trained_arm_has_its_recall_beside_its_accuracy(table):
    rows = table().set_index("arm")
    floor = [f"`{order}-gram`" for order in ORDERS]
    assert set(floor) <= set(rows.index)
    assert list(rows).index(GAIN) == list(rows).index("accuracy") + 1
    assert (rows.drop(index=floor)[GAIN] != "").all()


def test_every_saving_stands_beside_the_controls_of_its_bytes():
    rows, arms = savings(), sotu().set_index("arm")
    measured = arms["KV bytes a token (measured)"].replace("", "inf").str.replace(",", "").astype(float)
    is_control = arms.index.str.match(f"`({'|'.join(controls())})[@`]")
    saving = measured.index[(measured < measured[f"`{BASELINE}`"]) & ~is_control]
    beside = {
        (arm, control)
        for arm in saving
        for control in list(measured.index[is_control & (measured == measured[arm])]) or [""]
    }
    assert set(zip(rows["arm"], rows["control"], strict=True)) == beside
    assert len(rows) == len(beside)
    told = rows["nats/token from the control"] != ""
    assert (told == (rows["control"] != "")).all()
    assert (told == (rows["verdict"] != "")).all()

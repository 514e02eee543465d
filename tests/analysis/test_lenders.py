"""Arms that were trained after a lender stand beside their like alone."""

import pytest

from newllm.analysis.evidence import Evidence
from newllm.analysis.lenders import LENT, STREAM, lender_in
from newllm.analysis.summary import summarize_arms
from newllm.runs.records_table import load_records
from tests.publication.board_records import write_record

ARMS = {"pythia": "", "dproj-oacd": "", "dproj-oacd-lent-embedding": LENT, "cascade-oacd": STREAM}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for arm in [*ARMS, "dproj-random-lent-embedding"]:
        for seed in (1, 2):
            write_record(folder / f"{arm}-{seed}", arm, seed)
    return load_records(folder)


def test_a_record_tells_what_came_before_its_training(records):
    found = {record["arm"]: lender_in(record) for _, record in records.iterrows()}
    assert {arm: found[arm] for arm in ARMS} == ARMS
    renamed = records.assign(arm=records["arm"] + " (lr 0.001)")
    assert [*renamed.apply(lender_in, axis=1)] == [found[arm] for arm in records["arm"]]
    assert lender_in({"arm": "pretrained:EleutherAI/pythia-70m"}) == ""


def test_only_what_was_trained_alike_is_compared(records):
    summary = summarize_arms(records, "pythia").set_index("arm")
    assert summary["equal_budget"].to_dict() == {arm: not lender for arm, lender in ARMS.items()} | {
        "dproj-random-lent-embedding": False
    }
    assert summary["trained_otherwise"].to_dict() == {arm: bool(ARMS.get(arm, LENT)) for arm in summary.index}
    # Also where the first row is one that was trained otherwise, and none is the baseline.
    others = records[records["arm"] != "pythia"].iloc[::-1]
    assert summarize_arms(others, "pythia").set_index("arm")["equal_budget"].to_dict() == {
        arm: arm == "dproj-oacd" for arm in others["arm"]
    }
    blocks = {frozenset(group["arm"]) for group in Evidence(records).settings}
    lent = {"dproj-oacd-lent-embedding", "dproj-random-lent-embedding"}
    assert blocks == {frozenset(lent), frozenset({"pythia", "dproj-oacd"}), frozenset({"cascade-oacd"})}

"""What is read of single trials: how they go on from their prompts."""

import pandas as pd

from newllm.analysis.summary import continuations
from tests.publication.board_records import write_record


def test_trials_of_the_first_seed_go_on_arm_by_arm_in_words(tmp_path):
    rows = [
        {"arm": arm, "seed": seed, "folder": write_record(tmp_path / f"{arm}-{seed}", arm, seed).parent}
        for arm in ("pythia", "mqa@num_attention_heads=8")
        for seed in (1, 2)
    ]
    table = continuations(pd.DataFrame(rows), characters=11)
    assert list(table.arm) == ["pythia", "mqa: 8 heads"]
    assert set(table.prompt) == {"The people"}
    assert set(table.goes_on) == {"<b>said</b>"}

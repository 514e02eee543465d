"""Tables of what comes before a comparison: a row a way to train a recurrence, and a row a mask."""

import pandas as pd

from newllm.publication import stage_tables
from newllm.publication.stage_tables import leaks, projection_training


def test_seeds_are_averaged_and_their_range_is_said_where_they_differ(monkeypatch):
    trained = pd.DataFrame(
        {
            "variant": ["as it is", "as it is", "xavier"],
            "seed": [0, 1, 0],
            "passes": [30, 40, 99],
            "convergence_rate": [0.95, 0.952, 0.5],
            "effective_rank": [100.0, 120.0, 8.0],
        }
    )
    monkeypatch.setattr(stage_tables, "published_table", lambda name: trained)
    assert projection_training().to_numpy().tolist() == [
        ["as it is", "35 (30 to 40)", "95%", "110 (100 to 120)", 2],
        ["xavier", "99", "50%", "8", 1],
    ]


def test_what_is_published_has_every_column():
    for table in (projection_training(), leaks()):
        assert len(table) > 1
        assert (table.astype(str) != "").all(axis=None)
    assert {"right", "swapped"} <= set(leaks()["mask"])
    assert {"perplexity", "accuracy", "taken for a leak"} <= set(leaks())

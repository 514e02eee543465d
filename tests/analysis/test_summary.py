"""Results: differences between arms are taken window by window and seed by seed."""

import math

import numpy as np
import pandas as pd
import pytest

from newllm.analysis.summary import summarize_arms


def test_differences_are_paired_over_windows_and_seeds(tmp_path):
    rows = []
    windows = np.array([2.0, 6.0, 4.0, 8.0])
    for arm, shift in {"base": 0.0, "better": -0.5}.items():
        for seed in (0, 1, 2):
            folder = tmp_path / f"{arm}{seed}"
            folder.mkdir()
            pd.Series({"window_losses": (windows + shift + 0.1 * seed).tolist()}).to_json(folder / "evaluation.json")
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "parameter_count": 10,
                    "kv_bytes_per_token": 4.0,
                    "kv_bytes": 64,
                    "perplexity": 100 + shift + seed,
                    "folder": folder,
                }
            )
    table = summarize_arms(pd.DataFrame(rows), baseline="base").set_index("arm")
    assert list(table.index) == ["better", "base"]
    better = table.loc["better"]
    # Windows differ by 6 nats and seeds by 0.2; paired, nothing is left but the shift.
    for end in ("", "_low", "_high", "_over_seeds_low", "_over_seeds_high"):
        assert better[f"difference{end}"] == pytest.approx(-0.5)
    assert better["perplexity_low"] < better["perplexity"] == 100.5 < better["perplexity_high"]
    assert math.isnan(table.loc["base", "difference"])

"""Finished trials are compared: the controls are those of equal bytes, and of what was trained alike."""

import json

import numpy as np
import pandas as pd
import pytest

from newllm.analysis.comparisons import against_controls, against_full_attention, against_random

LOSSES = np.array([2.0, 6.0, 4.0, 8.0])


def trial(folder, arm, seed, bytes_per_token, shift):
    """One row of a comparison whose losses lie ``shift`` from those of the others, window by window."""
    place = folder / f"{arm}-{seed}"
    place.mkdir()
    scores = {"window_losses": (LOSSES + shift + 0.1 * seed).tolist(), "window_groups": [0, 0, 1, 1]}
    (place / "evaluation.json").write_text(json.dumps(scores))
    method = arm.partition("@")[0]
    measures = {"perplexity": np.exp(5 + shift + 0.1 * seed), "bits_per_byte": 2.0, "accuracy": 0.1}
    known = {"arm": arm, "method": method, "seed": seed, "parameter_count": 9, "folder": place}
    return {**known, **measures, "kv_bytes_per_token": bytes_per_token, "kv_bytes": 128 * bytes_per_token}


def test_each_arm_stands_beside_the_controls_of_its_bytes(tmp_path):
    arms = {
        "pythia": (8192.0, 0.0),
        "mla": (1024.0, 0.5),
        "mla@kv_dim=128": (2048.0, 0.3),
        "mqa": (2048.0, 0.1),
        "mqa@num_attention_heads=8": (1024.0, 0.7),
    }
    rows = [trial(tmp_path, arm, seed, *what) for arm, what in arms.items() for seed in (0, 1)]
    table = against_controls(pd.DataFrame(rows))
    assert list(zip(table["arm"], table["control"], strict=True)) == [
        ("mla@kv_dim=128", "mqa"),
        ("mla", "mqa@num_attention_heads=8"),
    ]
    assert list(table["kv_bytes_per_token"]) == [2048, 1024]
    assert list(table["control_difference"]) == pytest.approx([0.2, -0.2])
    assert (table["control_difference_low"] < table["control_difference"]).all()
    assert (table["control_perplexity"] > table["perplexity"]).tolist() == [False, True]


def test_each_arm_stands_beside_full_attention_of_its_encoding(tmp_path):
    slopes = "alibi_slopes_by_head=true,position=alibi"
    arms = {
        "pythia": (8192.0, 0.0),
        f"unified@{slopes}": (8192.0, -0.3),
        "mqa": (2048.0, 0.1),
        f"mqa@{slopes}": (2048.0, -0.4),
        "mla": (1024.0, 0.5),
    }
    rows = [trial(tmp_path, arm, seed, *what) for arm, what in arms.items() for seed in (0, 1)]
    table = against_full_attention(pd.DataFrame(rows))
    assert dict(zip(table["arm"], table["full_attention"], strict=True)) == {
        f"mqa@{slopes}": f"unified@{slopes}",
        "mqa": "pythia",
    }
    assert list(table["difference"]) == pytest.approx([-0.1, 0.1])
    assert (table["full_perplexity"] > table["perplexity"]).tolist() == [True, False]


def test_each_treatment_stands_beside_the_recurrence_that_was_left_random(tmp_path):
    shifts = {
        "pythia": -1.0,
        "dproj-oacd": 0.1,
        "dproj-random": 0.3,
        "dproj-end-to-end": 0.0,
        "dproj-oacd-lent-embedding": -0.5,
        "dproj-oacd@proj_dim=32": 0.9,
        "context-oacd-lent-embedding@proj_dim=32": 0.5,
        "context-random-lent-embedding@proj_dim=32": 0.4,
    }
    rows = [trial(tmp_path, arm, seed, 5120.0, shift) for arm, shift in shifts.items() for seed in (0, 1)]
    table = against_random(pd.DataFrame(rows))
    assert dict(zip(table["arm"], table["random"], strict=True)) == {
        "dproj-oacd": "dproj-random",
        "dproj-end-to-end": "dproj-random",
        "context-oacd-lent-embedding@proj_dim=32": "context-random-lent-embedding@proj_dim=32",
    }
    assert list(table["difference"]) == pytest.approx([-0.2, -0.3, 0.1])
    assert (table["random_perplexity"] > table["perplexity"]).tolist() == [True, True, False]


def test_only_what_was_trained_alike_stands_beside_one_another(tmp_path):
    arms = ("pythia", "cla", "mla", "pythia-lent-embedding", "cla-lent-embedding", "mla-lent-embedding")
    rows = [
        trial(tmp_path, arm, seed, 1024.0, 0.1) | {"parameters": {"arms": [arm]}, "method": arm.partition("-")[0]}
        for arm in arms
        for seed in (0, 1)
    ]
    for order in (rows, rows[::-1]):
        records = pd.DataFrame(order)
        controls = against_controls(records)
        pairs = set(zip(controls["arm"], controls["control"], strict=True))
        assert pairs == {("mla", "cla"), ("mla-lent-embedding", "cla-lent-embedding")} | {
            (f"pythia{end}", f"cla{end}") for end in ("", "-lent-embedding")
        }
        full = against_full_attention(records.replace({"arm": {"mla": "mla@position=rope"}}))
        assert dict(zip(full["arm"], full["full_attention"], strict=True)) == {
            "mla@position=rope": "pythia",
            "cla": "pythia",
            "cla-lent-embedding": "pythia-lent-embedding",
        }


def test_without_equal_bytes_nothing_is_compared(tmp_path):
    rows = [trial(tmp_path, "pythia", 0, 8192.0, 0.0), trial(tmp_path, "mqa", 0, 2048.0, 0.1)]
    table = against_controls(pd.DataFrame(rows))
    assert table.empty
    assert against_full_attention(pd.DataFrame(rows[1:])).empty, "nothing of its encoding is there"
    assert against_random(pd.DataFrame(rows)).empty, "no recurrence is there"
    assert {"arm", "control"} <= set(table.columns)

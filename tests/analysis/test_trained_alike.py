"""Each trial counts once, and no row mixes budgets, whichever folder comes first; counts are of the baseline's text."""

import json

import numpy as np
import pandas as pd
import pytest

from newllm.analysis.comparisons import against_full_attention
from newllm.analysis.encodings import memory_by_encoding
from newllm.analysis.evidence import Evidence
from newllm.analysis.recall import recall_by_arm, with_recall_gain
from newllm.analysis.studies import base_arm, one_change_each
from newllm.analysis.summary import positions, summarize_arms
from newllm.analysis.trained_alike import UNEQUAL, budget_of, rows_apart, trials_once
from newllm.config.profiles import load_parameters
from newllm.evaluation.verdicts import WORSE
from newllm.experiments.arms import trained_arms
from newllm.experiments.floor import FLOORS_FOLDER, Floor, NGramScore
from newllm.experiments.trial import Trial
from newllm.files import to_json

GROUPS = np.repeat(np.arange(20), 5)
HARD = np.random.default_rng(0).normal(4, 0.3, 100)
GIVEN = dict.fromkeys(UNEQUAL, 1) | {"data": "d1", "source": "sotu", "samples": 1000, "seq_length": 256}
GIVEN |= {"epochs": 1, "lr": 1e-3, "matrix_lr": "adamw"}


def record(folder, arm, seed, shift=0.0, **changes):
    """A row of a table of records, and the losses that it left."""
    losses = HARD + shift + np.random.default_rng(seed).normal(0, 0.01, 100)
    folder.mkdir(parents=True)
    bands = [{"start": 0, "end": 8, "perplexity": 50.0}]
    (folder / "evaluation.json").write_text(
        json.dumps({"window_losses": losses.tolist(), "window_groups": GROUPS.tolist(), "positions": bands})
    )
    row = {"arm": arm, "method": arm.partition("@")[0], "seed": seed, "folder": folder, "kv_bytes_per_token": 8.0}
    row |= {"perplexity": float(np.exp(losses.mean())), "repeated_passage_gain": 0.1 * seed}
    return row | {"validation_loss": float(losses.mean()), "parameters": GIVEN | changes}


@pytest.fixture
def rows(tmp_path):
    """Two arms of two seeds."""
    arms = (("pythia", 0.0), ("mqa", 0.05))
    return [record(tmp_path / "a" / f"{arm}-{seed}", arm, seed, by) for arm, by in arms for seed in (0, 1)]


def test_a_trial_that_was_found_twice_is_one(rows):
    once, twice = (summarize_arms(pd.DataFrame(found), "pythia") for found in (rows, rows + rows))
    pd.testing.assert_frame_equal(once, twice)
    pd.testing.assert_frame_equal(*(recall_by_arm(pd.DataFrame(found)) for found in (rows, rows + rows)))
    pd.testing.assert_frame_equal(*(against_full_attention(pd.DataFrame(found)) for found in (rows, rows + rows)))
    assert len(positions(pd.DataFrame(rows + rows))) == 4
    assert [len(found) for found in Evidence(pd.DataFrame(rows + rows)).settings] == [4]


def test_of_copies_the_one_that_was_finished_last_is_kept(rows):
    old, new = ([row | {"finished_at": day, "perplexity": 100.0 - day} for row in rows] for day in (1, 2))
    for found in (old + new, new + old):
        assert set(trials_once(pd.DataFrame(found))["perplexity"]) == {98.0}


@pytest.mark.parametrize("name", ["proj_dim", "max_iterations", "weight_decay"])
def test_no_trial_is_lost_or_mixed_with_another_that_was_trained_in_another_way(rows, tmp_path, name):
    usual = [row | {"parameters": row["parameters"] | {name: 100}} for row in rows]
    other = [record(tmp_path / "b" / f"mqa-{seed}", "mqa", seed, -0.5, **{name: 2}) for seed in (1, 2)]
    table = summarize_arms(pd.DataFrame(usual + other), "pythia").set_index("arm")
    assert table["seeds"].to_dict() == {"pythia": 2, "mqa": 2, f"mqa ({name} 2)": 2}
    assert table["difference"][f"mqa ({name} 2)"] != table["difference"]["mqa"]


@pytest.mark.parametrize("turned", [False, True])
def test_no_row_mixes_budgets_whichever_record_comes_first(rows, tmp_path, turned):
    longer = [record(tmp_path / "b" / f"mqa-{seed}", "mqa", seed, -0.5, epochs=3) for seed in (1, 2, 3)]
    records = pd.DataFrame((longer + rows) if turned else (rows + longer))
    table = summarize_arms(records, "pythia").set_index("arm")
    assert table["seeds"].to_dict() == {"pythia": 2, "mqa": 2, "mqa (epochs 3)": 3}
    assert table["equal_budget"].to_dict() == {"pythia": True, "mqa": True, "mqa (epochs 3)": False}
    alone = summarize_arms(pd.DataFrame(rows), "pythia").set_index("arm")
    assert table.loc["mqa", "verdict"] == alone.loc["mqa", "verdict"] == WORSE
    assert table.loc["mqa", "difference_low"] == alone.loc["mqa", "difference_low"]
    gains = with_recall_gain(table.reset_index(), records, "pythia")
    assert len(gains) == 3 and gains["gain on a passage said twice (nats)"].notna().all()
    assert set(positions(records)["arm"]) == set(table.index)
    # Without the baseline, the plain name is for what has most seeds.
    others = summarize_arms(records[records["arm"] == "mqa"]).set_index("arm")
    assert others["seeds"].to_dict() == {"mqa": 3, "mqa (epochs 1)": 2}
    assert memory_by_encoding(table.reset_index()).empty


def test_rates_of_one_arm_are_rows_of_their_own(rows, tmp_path):
    faster = record(tmp_path / "b" / "mqa", "mqa", 0, -0.5, lr=0.1)
    records = pd.DataFrame([faster, *rows])
    table = summarize_arms(records, "pythia").set_index("arm")
    assert table["seeds"].to_dict() == {"pythia": 2, "mqa": 2, "mqa (lr 0.1)": 1}
    assert table["equal_budget"].all()
    assert against_full_attention(records)[["arm", "seeds"]].to_numpy().tolist() == [["mqa", 2]]


def test_columns_that_tell_rows_apart_leave_their_names(rows, tmp_path):
    longer = [record(tmp_path / "b" / f"{arm}", arm, 0, epochs=3) for arm in ("mqa", "pythia")]
    records = pd.DataFrame(rows + longer)
    records["epochs"] = [given["epochs"] for given in records["parameters"]]
    assert list(rows_apart(records, "pythia", ["epochs"])["arm"]) == list(records["arm"])


def test_a_change_of_the_base_arm_is_one_of_its_budget(tmp_path):
    parameters = load_parameters("08_context_kv", "smoke", {})
    base = base_arm(parameters).name
    other = f"{base}@chunk_size=3"
    rows = [record(tmp_path / f"{place}", arm, 0) for place, arm in enumerate((base, other))]
    rows += [record(tmp_path / f"longer-{arm}", arm, 0, epochs=3) for arm in (base, other)]
    records = pd.DataFrame(rows).assign(method="context-kv", stream_perplexity=[50.0, 60.0, 5.0, 500.0])
    (row,) = one_change_each(records, parameters).to_dict("records")
    assert (row["arm"], row["stream_difference"]) == (other, pytest.approx(np.log(60 / 50)))


def leave_floor(folder, data, loss):
    """Leave counts of some data beside its trials."""
    score = NGramScore(order=2, perplexity=float(np.exp(loss)), bits_per_byte=1, window_losses=(loss,) * 100)
    floor = Floor(data=data, seq_length=256, window_groups=GROUPS.tolist(), duration_seconds=0, scores=(score,))
    (folder / FLOORS_FOLDER).mkdir(parents=True)
    (folder / FLOORS_FOLDER / f"{data}-256.json").write_text(to_json(floor))


@pytest.mark.parametrize("turned", [False, True])
def test_counts_of_another_text_never_stand_for_those_of_the_baselines(rows, tmp_path, turned):
    leave_floor(tmp_path / "a", "d1", 3.5)
    leave_floor(tmp_path / "b", "d2", 2.0)
    rows += [record(tmp_path / "b" / f"mla-{seed}", "mla", seed, data="d2") for seed in (0, 1)]
    records = pd.DataFrame(rows[::-1] if turned else rows)
    table = summarize_arms(records, "pythia").set_index("arm")
    assert list(table.index[table["seeds"].isna()]) == ["2-gram"]
    assert table.loc["2-gram", "perplexity"] == pytest.approx(np.exp(3.5))
    assert table.loc["2-gram", "difference"] == pytest.approx(3.5 - np.log(table.loc["pythia", "perplexity"]), abs=0.01)
    # Without a baseline, counts of each text say of which they are.
    others = summarize_arms(records[records["arm"] != "pythia"]).set_index("arm")
    counts = others.loc[others["seeds"].isna(), "perplexity"]
    assert sorted(np.log(counts)) == pytest.approx([2.0, 3.5])
    assert sorted(counts.index)[0] == "2-gram" and sorted(counts.index)[1].startswith("2-gram (data d")
    assert summarize_arms(records[records["arm"] == "mla"]).set_index("arm").index.tolist().count("2-gram") == 1


def test_an_embedding_from_elsewhere_is_another_budget(tmp_path):
    def budget(arm, **given):
        given = {"arms": json.dumps([arm]), "seeds": "[0]"} | given
        parameters = load_parameters("09_cascade", "smoke", given)
        (trained,) = trained_arms(parameters)
        identity = Trial(trained, 0, parameters, tmp_path, "d1").run().identity
        return budget_of(pd.Series({"arm": trained.name, "method": trained.method, "parameters": identity}))

    own = budget("cascade-oacd")
    assert own == budget("cascade-random")
    from_gpt2 = budget("cascade-oacd@embedding_source=gpt2")
    assert (
        from_gpt2 == budget("cascade-oacd", embedding_source="gpt2") == budget("cascade-random@embedding_source=gpt2")
    )
    assert from_gpt2 != own != budget("cascade-oacd@embedding_source=random")
    assert budget("pythia") == budget("pythia", embedding_source="gpt2")

"""Weights read in another way than they were trained."""

import numpy as np
import pandas as pd
import pytest
import torch

from newllm.analysis.rereading import exchange
from newllm.config.notebooks import KeyAttention
from newllm.data import TokenWindows
from newllm.data.groups import DocumentGroups
from newllm.evaluation.comparison_statistics import two_way_difference
from newllm.evaluation.perplexity import evaluate
from newllm.evaluation.verdicts import EQUIVALENT
from newllm.models import create
from newllm.runs.saved_model import load_model

IDS = np.random.default_rng(0).integers(512, size=12 * 16 + 1).astype(np.uint16)
WINDOWS = TokenWindows(IDS, 16, np.ones(512, dtype=np.int64), DocumentGroups.of([(50, "a"), (80, "b"), (63, "c")]))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Two methods with two seeds, their weights larger than at the start, so that attention matters."""
    rows = []
    for seed in (0, 1):
        for method in ("pythia", "ka", "vdproj"):
            torch.manual_seed(seed)
            model = create(method, "tiny")
            for parameter in model.parameters():
                parameter.data.mul_(4)
            folder = tmp_path_factory.mktemp("trial")
            model.save_pretrained(folder / "model")
            known = {"arm": method, "method": method, "seed": seed, "parameters": {"arms": [method], "seeds": [seed]}}
            rows.append(known | {"folder": folder})
    return pd.DataFrame(rows)


def read(records, folder, tokens_a_step):
    given = {"profile": "test", "samples": 6, "seq_length": 20, "epochs": 1, "arms": ["ka"], "seeds": [0]}
    parameters = KeyAttention(**given, device="cpu", tokens_a_step=tokens_a_step)
    return exchange(records, ["pythia", "ka"], WINDOWS, parameters, folder)


@pytest.fixture(scope="module")
def table(records, tmp_path_factory):
    return read(records, tmp_path_factory.mktemp("run"), tokens_a_step=1)


def test_every_way_of_reading_is_a_row(table):
    assert [tuple(row) for row in table[["trained_as", "read_as", "scored"]].values] == [
        ("pythia", "pythia", "in one pass"),
        ("pythia", "pythia", "through the cache"),
        ("pythia", "ka", "through the cache"),
        ("ka", "ka", "in one pass"),
        ("ka", "ka", "through the cache"),
        ("ka", "pythia", "through the cache"),
    ]
    assert set(table["seeds"]) == {2}


def test_the_cache_changes_nothing_and_the_other_attention_does(table):
    as_trained = table[table["trained_as"] == table["read_as"]]
    assert as_trained["largest_difference"].max() < 1e-4
    assert set(as_trained.loc[as_trained["scored"] == "through the cache", "verdict"]) == {EQUIVALENT}
    assert table.loc[table["trained_as"] != table["read_as"], "largest_difference"].min() > 1e-3


def test_differences_are_those_of_the_same_windows(table, records):
    first = records[records["arm"] == "pythia"].iloc[0]["folder"]
    second = records[records["arm"] == "pythia"].iloc[1]["folder"]
    ours = np.stack([evaluate(load_model(folder, method="ka"), WINDOWS).window_losses for folder in (first, second)])
    theirs = np.stack(
        [evaluate(load_model(folder, method="pythia"), WINDOWS).window_losses for folder in (first, second)]
    )
    expected = two_way_difference(ours - theirs, np.zeros_like(ours[:1]), WINDOWS.document_groups).interval
    row = table.iloc[2]
    assert row["perplexity"] == pytest.approx(np.exp(ours.mean()), rel=1e-5)
    assert [row["difference"], row["difference_low"], row["difference_high"]] == pytest.approx(
        [expected.mean, expected.low, expected.high], abs=1e-5
    )


def test_a_method_that_was_not_compared_is_only_read(records, tmp_path):
    alone = read(records[records["arm"] == "pythia"], tmp_path, tokens_a_step=4)
    assert set(alone["trained_as"]) == {"pythia"}
    assert list(alone["read_as"]) == ["pythia", "pythia", "ka"]


def test_weights_of_another_model_are_refused(records):
    for method, other in (("vdproj", "ka"), ("pythia", "mla")):
        folder = records[records["arm"] == method].iloc[0]["folder"]
        with pytest.raises(ValueError, match=f"cannot be loaded as {other}"):
            load_model(folder, method=other)


def test_a_loaded_model_is_the_other_method_with_the_same_weights(records):
    folder = records[records["arm"] == "pythia"].iloc[0]["folder"]
    pythia, ka = load_model(folder, method="pythia"), load_model(folder, method="ka")
    assert type(ka).__name__ == "KAPythiaModel"
    assert all(torch.equal(value, ka.state_dict()[name]) for name, value in pythia.state_dict().items())

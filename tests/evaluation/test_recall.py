"""Recall measured on models that are made to remember everything, or nothing."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from newllm.evaluation.recall import (
    by_place_in_period,
    can_tell,
    position_gain,
    recall_losses,
    recall_tokens,
    repeated_passages,
)
from newllm.evaluation.statistics import Interval

VOCABULARY = 50


class Copier(nn.Module):
    """Expects what followed the last time that these two tokens stood here, within ``reach`` tokens; else anything."""

    def __init__(self, reach: int = 10_000):
        super().__init__()
        self.reach = reach
        self.config = SimpleNamespace(vocab_size=VOCABULARY)
        self.device = torch.device("cpu")

    def forward(self, input_ids, use_cache=False):
        logits = torch.zeros(*input_ids.shape, VOCABULARY)
        for row, ids in enumerate(input_ids.tolist()):
            last = {}
            for place in range(1, len(ids)):
                pair = (ids[place - 1], ids[place])
                before = last.get(pair)
                if before is not None and place - before <= self.reach and before + 1 < len(ids):
                    logits[row, place, ids[before + 1]] = 6.0
                last[pair] = place
        return SimpleNamespace(logits=logits)


@pytest.fixture(scope="module")
def stream():
    return np.random.default_rng(0).integers(0, VOCABULARY, 3000)


class TestRepeatedPassages:
    def test_a_perfect_copier_gains_at_every_distance(self, stream):
        table = repeated_passages(Copier(), stream, (8, 64, 256), passages=16)
        assert (table["gain"] > 2.5).all()
        assert (table["gain_low"] > 2.0).all()

    def test_one_that_forgets_gains_nothing(self, stream):
        table = repeated_passages(Copier(reach=0), stream, (8, 64), passages=16)
        assert table["gain"].abs().max() < 1e-6

    def test_a_memory_ends_where_it_ends(self, stream):
        """The copies are 32 + distance tokens apart, so a reach of 100 covers a distance of 64 and not one of 128."""
        near, far = repeated_passages(Copier(reach=100), stream, (64, 128), passages=16)["gain"]
        assert near > 2.5
        assert abs(far) < 0.2

    def test_too_little_text_is_refused(self):
        with pytest.raises(ValueError, match="too few"):
            repeated_passages(Copier(), np.arange(100), (64,))


class TestRecallTokens:
    @given(
        st.lists(st.lists(st.integers(0, 4), min_size=8, max_size=8), min_size=1, max_size=4),
        st.lists(st.lists(st.integers(0, 4), min_size=8, max_size=8), min_size=1, max_size=4),
        st.integers(0, 3),
    )
    def test_equal_to_looking_back_token_by_token(self, windows, training, rare):
        found = recall_tokens(np.array(windows), np.array(training), 5, rare)
        pairs = [(a, b) for row in training for a, b in itertools.pairwise(row)]
        for number, row in enumerate(windows):
            for place in range(1, 8):
                pair = (row[place - 1], row[place])
                earlier = [(row[i - 1], row[i]) for i in range(1, place)]
                is_rare = pairs.count(pair) <= rare
                is_hit = is_rare and pair in earlier
                assert found.hits[number, place - 1] == is_hit
                followed = any(first == pair[0] for first, _ in earlier)
                assert found.misses[number, place - 1] == (is_rare and followed and not is_hit)

    def test_a_copier_is_better_on_hits_alone(self, stream):
        windows = stream[:2000].reshape(20, 100).copy()
        windows[:, 60:90] = windows[:, 10:40]
        targets = torch.from_numpy(windows[:, 1:])
        losses = {}
        for name, model in {"copier": Copier(), "forgetting": Copier(reach=0)}.items():
            logits = model(torch.from_numpy(windows[:, :-1])).logits
            losses[name] = nn.functional.cross_entropy(logits.mT, targets, reduction="none").double().numpy()
        tokens = recall_tokens(windows, stream[2000:].reshape(10, 100), VOCABULARY)
        copier, forgetting = (recall_losses(values, tokens).set_index("kind")["loss"] for values in losses.values())
        assert copier["hits"] < forgetting["hits"] - 2
        assert copier["others"] == pytest.approx(forgetting["others"], abs=0.2)


def test_the_interval_of_a_kind_is_over_windows():
    losses = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    windows = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2]])
    table = recall_losses(losses, recall_tokens(windows, windows, 3)).set_index("kind")
    assert list(table.index) == ["others"]
    assert table.loc["others", "loss"] == 3.5
    assert table.loc["others", "loss_low"] < 1.5 < 5.5 < table.loc["others", "loss_high"]


def test_late_positions_gain_what_the_losses_say():
    losses = np.tile(np.linspace(3, 1, 64), (5, 1)) + np.random.default_rng(0).normal(0, 0.01, (5, 64))
    gain = position_gain(losses)
    # Positions 4 to 7 against 32 to 63: the loss falls by 2 over 63 tokens, and 42 lie between their means.
    assert gain.low < 2 * 42 / 63 < gain.high
    with pytest.raises(ValueError, match="15 tokens are too short"):
        position_gain(losses[:, :15])


def test_the_places_of_a_period():
    losses = np.tile(np.array([1.0, 2.0, 3.0, 4.0]), (3, 5)) + np.array([[-0.1], [0.0], [0.1]])
    assert by_place_in_period(losses, 4, skip=4)["loss"].tolist() == pytest.approx([1, 2, 3, 4])
    with pytest.raises(ValueError, match="no whole period"):
        by_place_in_period(losses, 4, skip=2)


def test_a_measure_tells_nothing_where_the_baseline_gains_nothing():
    assert can_tell(Interval(0.2, 0.1, 0.3, 10))
    assert not can_tell(Interval(0.2, -0.1, 0.5, 10))
    assert not can_tell(Interval(0.2, float("nan"), float("nan"), 1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 0}, "^batch_size=0 must be a whole number"),
        ({"passages": 1.5}, "^passages=1.5 must be"),
        ({"distances": [True]}, "distances.0.=True must be"),
        ({"distances": []}, "distances is empty"),
        ({"tokens_a_step": 0}, "tokens_a_step=0 must be"),
        ({"stream": np.arange(400) / 2}, "one row of whole ids, got float64"),
        ({"stream": np.zeros((4, 100), dtype=int)}, "one row of whole ids"),
    ],
)
def test_what_is_no_number_of_passages_is_refused_in_one_sentence(changes, said):
    with pytest.raises(ValueError, match=said):
        repeated_passages(Copier(), **{"stream": np.arange(400), "distances": [8]} | changes)

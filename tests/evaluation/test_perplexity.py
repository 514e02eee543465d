"""Perplexity by a second, plain calculation, and the properties that every way of scoring shares."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.evaluation import perplexity
from newllm.evaluation.perplexity import evaluate, evaluate_stream, extrapolate
from tests.evaluation import toys


@dataclass
class Stream:
    token_ids: np.ndarray
    seq_length: int
    text_bytes: int = 1000

    def __len__(self):
        return (len(self.token_ids) - 1) // self.seq_length


def stream(windows: int = 6, seq_length: int = 20, seed: int = 0) -> Stream:
    random = np.random.default_rng(seed)
    return Stream(random.integers(toys.VOCABULARY, size=windows * seq_length + 1).astype(np.uint16), seq_length)


@pytest.fixture(scope="module")
def model():
    return toys.gpt_neox()


def plain_losses(model, windows: Stream) -> torch.Tensor:
    """One window at a time, in float64."""
    rows = []
    for start in range(0, len(windows) * windows.seq_length, windows.seq_length):
        ids = torch.tensor(windows.token_ids[start : start + windows.seq_length + 1].astype(np.int64))
        with torch.no_grad():
            logits = model(ids[None, :-1]).logits[0].double()
        rows.append(F.cross_entropy(logits, ids[1:], reduction="none"))
    return torch.stack(rows)


def test_it_equals_the_plain_calculation(model):
    windows = stream()
    report = evaluate(model, windows, batch_size=4)
    expected = plain_losses(model, windows)
    assert report.loss == pytest.approx(expected.mean().item(), abs=1e-5)
    assert report.perplexity == pytest.approx(math.exp(expected.mean().item()), rel=1e-5)
    assert report.tokens == 120
    assert report.bits_per_byte == pytest.approx(expected.sum().item() / math.log(2) / 1000, rel=1e-5)
    np.testing.assert_allclose(report.window_losses, expected.mean(1).numpy(), atol=1e-5)


def test_it_equals_the_models_own_loss_on_the_same_windows(model):
    windows = stream(windows=3)
    ids = torch.tensor(windows.token_ids[:61].astype(np.int64)).unfold(0, 21, 20)
    with torch.no_grad():
        own = model(ids, labels=ids).loss.item()
    assert evaluate(model, windows).loss == pytest.approx(own, abs=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 7), st.integers(1, 30), st.integers(1, 8))
def test_batches_do_not_matter(windows, seq_length, batch_size):
    model, text = toys.Toy().eval(), stream(windows, seq_length)
    expected = evaluate(model, text, batch_size=1)
    found = evaluate(model, text, batch_size=batch_size)
    assert found.loss == pytest.approx(expected.loss, abs=1e-5)
    assert found.tokens == windows * seq_length


def test_a_large_vocabulary_takes_fewer_rows_at_once(model, monkeypatch):
    widest = []
    forward = model.forward

    def watched(input_ids, **kwargs):
        widest.append(len(input_ids))
        return forward(input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", watched)
    windows = stream()
    expected = evaluate(model, windows, batch_size=6).loss
    monkeypatch.setattr(perplexity, "LOGITS_AT_ONCE", 2 * 20 * toys.VOCABULARY)
    assert evaluate(model, windows, batch_size=6).loss == pytest.approx(expected, abs=1e-6)
    assert widest == [6, 2, 2, 2]


def test_perfect_knowledge_has_perplexity_one_and_ignorance_that_of_the_vocabulary():
    class Knows(toys.Toy):
        """Predicts the next token, one more than this."""

        sharpness = 100.0

        def hidden(self, input_ids, attention_mask, cache):
            return F.one_hot((input_ids + 1) % toys.VOCABULARY, toys.VOCABULARY).float()

        def logits(self, hidden, labels):
            return self.sharpness * hidden

    class KnowsNothing(Knows):
        sharpness = 0.0

    counting = Stream((np.arange(81) % toys.VOCABULARY).astype(np.uint16), 20)
    sure = evaluate(Knows(), counting)
    assert sure.perplexity == pytest.approx(1)
    assert sure.accuracy == 1
    assert evaluate(KnowsNothing(), counting).perplexity == pytest.approx(toys.VOCABULARY, rel=1e-5)


@pytest.mark.parametrize(
    ("length", "bands"),
    [
        (10, [(0, 10)]),
        (16, [(0, 16)]),
        (40, [(0, 16), (16, 32), (32, 40)]),
        (128, [(0, 16), (16, 32), (32, 64), (64, 96), (96, 128)]),
    ],
)
def test_position_bands_cover_the_window_once(model, length, bands):
    windows = stream(windows=2, seq_length=length)
    report = evaluate(model, windows, bands=(96, 16, 64, 32))
    positions = report.positions
    assert list(zip(positions.start, positions.end, strict=True)) == bands
    assert positions.tokens.sum() == report.tokens
    weighted = (np.log(positions.perplexity) * positions.tokens).sum() / positions.tokens.sum()
    assert weighted == pytest.approx(report.loss)
    expected = plain_losses(model, windows)[:, : bands[0][1]].mean().item()
    assert positions.perplexity[0] == pytest.approx(math.exp(expected), rel=1e-4)


@pytest.mark.parametrize("tokens_a_step", [1, 7, 20, 50])
def test_scoring_through_the_cache_is_the_same_for_exact_caches(model, tokens_a_step):
    windows = stream()
    cached = evaluate(model, windows, tokens_a_step=tokens_a_step)
    assert cached.loss == pytest.approx(evaluate(model, windows).loss, abs=1e-5)
    assert cached.tokens == 120


def test_scoring_through_the_cache_sees_a_cache_that_differs():
    windows = stream()
    model = toys.LeakInCachedPieces()
    assert abs(evaluate(model, windows, tokens_a_step=5).loss - evaluate(model, windows).loss) > 1e-3


def test_no_tokens_a_step_is_an_error(model):
    with pytest.raises(ValueError, match="tokens a step"):
        evaluate(model, stream(), tokens_a_step=0)


def test_a_stream_carries_the_cache_over_windows(model):
    windows = stream()
    ids = torch.tensor(windows.token_ids.astype(np.int64))
    with torch.no_grad():
        expected = F.cross_entropy(model(ids[None, :-1]).logits[0], ids[1:]).item()
    score = evaluate_stream(model, windows.token_ids, text_bytes=windows.text_bytes, tokens_a_step=17)
    assert score.loss == pytest.approx(expected, abs=1e-5)
    assert score.tokens == 120
    assert score.bits_per_byte == pytest.approx(expected * 120 / math.log(2) / 1000, rel=1e-5)
    assert abs(score.loss - evaluate(model, windows).loss) > 1e-5
    assert math.isnan(evaluate_stream(model, ids).bits_per_byte)


def test_a_stream_needs_a_row_of_ids(model):
    with pytest.raises(ValueError, match="at least two ids"):
        evaluate_stream(model, np.array([1]))


def test_extrapolation_predicts_the_same_tokens_at_each_length(model):
    windows = stream(windows=9)
    table = extrapolate(model, windows)
    assert list(table.seq_length) == [20, 40, 80]
    assert set(table.tokens) == {160}
    first = Stream(windows.token_ids[:161], 20)
    double = Stream(windows.token_ids[:161], 40)
    assert table.perplexity[0] == pytest.approx(evaluate(model, first).perplexity)
    assert table.perplexity[1] == pytest.approx(evaluate(model, double).perplexity)
    assert math.isnan(table.beyond[0])
    beyond = plain_losses(model, double)[:, 20:].mean().item()
    assert table.beyond[1] == pytest.approx(math.exp(beyond), rel=1e-5)


def test_extrapolation_needs_enough_windows(model):
    with pytest.raises(ValueError, match="need 4 windows, got 3"):
        extrapolate(model, stream(windows=3))


def test_the_training_mode_comes_back(model):
    model.train()
    evaluate(model, stream())
    assert model.training
    model.eval()


def test_half_precision_models_are_scored_in_full(model):
    windows = stream()
    half = toys.gpt_neox().bfloat16()
    assert evaluate(half, windows).loss == pytest.approx(evaluate(model, windows).loss, abs=0.05)
    assert isinstance(evaluate(half, windows).positions, pd.DataFrame)

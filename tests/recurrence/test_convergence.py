import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from newllm.recurrence.convergence import (
    EFFECTIVE_RANK_ROWS,
    Contraction,
    compute_convergence_rate,
    contraction,
    effective_rank,
    singular_values,
)


class Linear:
    """A recurrence whose disturbances shrink or grow by ``factor`` with every token."""

    def __init__(self, factor: float, proj_dim: int = 3) -> None:
        self.factor, self.proj_dim = factor, proj_dim

    def __call__(self, prev: Tensor, embeds: Tensor, /) -> Tensor:
        return self.factor * prev + embeds


@given(st.integers(1, 50), st.integers(0, 50), st.floats(0.001, 1.0))
def test_convergence_rate_counts_tokens_that_hardly_moved(still, moving, threshold):
    prev = torch.randn(still + moving, 6, dtype=torch.float64)
    step = torch.full((still + moving, 1), math.sqrt(threshold * 0.9), dtype=torch.float64)
    step[still:] = math.sqrt(threshold * 1.1)
    rate = compute_convergence_rate(prev + step, prev, threshold)
    assert rate == pytest.approx(still / (still + moving))


def test_convergence_threshold_is_three_hundredths_of_mean_square():
    prev = torch.zeros(2, 4)
    cur = torch.tensor([[0.2, 0.2, 0.2, 0.0], [0.2, 0.2, 0.2, 0.05]])  # mean squares 0.030 - rounding, 0.0306
    cur[0] *= 0.999
    assert compute_convergence_rate(cur, prev) == 0.5


def test_convergence_rate_refuses_different_shapes():
    with pytest.raises(ValueError, match="one shape"):
        compute_convergence_rate(torch.zeros(3, 2), torch.zeros(1, 2))


@given(st.integers(1, 12), st.integers(0, 100))
def test_effective_rank_of_equal_directions_is_their_number(rank, seed):
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=generator)).Q
    x = torch.eye(12, dtype=torch.float64)[:rank] @ rotation * 5
    assert effective_rank(x) == pytest.approx(rank, rel=1e-9)


def test_effective_rank_equals_the_formula_uncentred():
    x = np.random.default_rng(0).normal(size=(200, 9)) + 3  # the mean is part of the spectrum
    s = np.linalg.svd(x, compute_uv=False)
    p = s / s.sum()
    assert effective_rank(torch.from_numpy(x)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-10)
    assert effective_rank(torch.from_numpy(x - x.mean(axis=0))) > 1.2 * effective_rank(torch.from_numpy(x))


def test_effective_rank_reads_the_whole_of_a_long_stream():
    rows = 3 * EFFECTIVE_RANK_ROWS
    x = torch.zeros(rows, 4)
    x[: rows // 2, 0] = 1
    x[rows // 2 :, 1] = 1
    assert effective_rank(x) == pytest.approx(2)
    assert singular_values(x).square().sum() == pytest.approx(EFFECTIVE_RANK_ROWS)


def test_effective_rank_of_nothing_and_of_what_is_not_finite():
    assert effective_rank(torch.zeros(5, 3)) == 0
    with pytest.raises(ValueError, match="not finite"):
        effective_rank(torch.tensor([[1.0, math.nan]]))


@settings(max_examples=25)
@given(st.floats(0.3, 0.99), st.integers(64, 300))
def test_contraction_measures_the_decay(factor, length):
    measured = contraction(Linear(factor), torch.randn(length, 3, dtype=torch.float64))
    assert measured.tokens == 64
    assert measured.ratio == pytest.approx(factor**64, rel=1e-4, abs=1e-13)
    warm_up = measured.warm_up(1e-6)
    assert warm_up is not None
    first = measured.disturbances[0]
    assert first * factor**warm_up <= 1.01e-6 < first * factor ** (warm_up - 1) * 1.03


@pytest.mark.parametrize("factor", [1.0, 1.2, 1e30])
def test_what_does_not_contract_has_no_warm_up(factor):
    measured = contraction(Linear(factor), torch.randn(100, 3))
    assert measured.ratio >= 0.99
    assert measured.warm_up(1e-5) is None or factor == 1.0


def test_two_runs_that_stay_apart_behind_a_norm_do_not_fade():
    """A random start is further from a context than contexts are from each other: the first steps are no decay."""
    settled = Contraction((3.0, *[2.0] * 64))
    assert settled.ratio < 0.7
    assert settled.late_ratio == 1.0
    assert settled.warm_up(1e-5) is None


def test_short_streams_are_read_whole():
    assert contraction(Linear(0.5), torch.randn(7, 3)).tokens == 7
    with pytest.raises(ValueError, match="at least one token"):
        contraction(Linear(0.5), torch.randn(0, 3))


def test_a_tolerance_above_the_disturbance_still_reads_a_token():
    assert Contraction((0.5, 0.25)).warm_up(1.0) == 1

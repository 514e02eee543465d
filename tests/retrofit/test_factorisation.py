"""Factors of weights: exact at full rank, best of their rank, and worth what their energies say."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from newllm.retrofit.calibration import Moments
from newllm.retrofit.factorisation import allot_ranks, factorise, factorise_apart, principal_directions


def problem(seed, outputs=6, inputs=9, count=200):
    """Weights, and inputs that lie mostly in a few directions."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    scales = torch.logspace(0, -3, inputs, dtype=torch.float64)
    mixing = torch.linalg.qr(torch.randn(inputs, inputs, generator=generator, dtype=torch.float64))[0]
    return weight, torch.randn(count, inputs, generator=generator, dtype=torch.float64) * scales @ mixing


def second_moment(vectors):
    moments = Moments(vectors.shape[1])
    moments.add(vectors)
    return moments.second_moment


def error(factors, weight, vectors):
    return float(((vectors @ weight.T - vectors @ factors.compress.T @ factors.expand.T) ** 2).sum(1).mean())


@given(st.integers(0, 1000), st.booleans())
def test_the_full_rank_is_exact(seed, weighted):
    weight, vectors = problem(seed)
    factors = factorise(weight, 6, second_moment(vectors) if weighted else None)
    assert torch.allclose(factors.expand @ factors.compress, weight, atol=1e-12)
    assert factors.energy_lost == 0


@given(st.integers(0, 1000), st.integers(1, 5))
def test_the_error_is_the_energy_of_what_is_left_out(seed, rank):
    weight, vectors = problem(seed)
    factors = factorise(weight, rank, second_moment(vectors))
    total = float(((vectors @ weight.T) ** 2).sum(1).mean())
    assert error(factors, weight, vectors) == pytest.approx(factors.energy_lost * total, rel=1e-6, abs=1e-12 * total)


@given(st.integers(0, 1000), st.integers(1, 5))
def test_no_other_factors_of_this_rank_are_better(seed, rank):
    weight, vectors = problem(seed)
    best = error(factorise(weight, rank, second_moment(vectors)), weight, vectors)
    generator = torch.Generator().manual_seed(seed)
    plain = factorise(weight, rank)
    assert best <= error(plain, weight, vectors) * (1 + 1e-9)
    for _ in range(5):
        directions = torch.linalg.qr(torch.randn(6, rank, generator=generator, dtype=torch.float64))[0]
        other = type(plain)(directions.T @ weight, directions, plain.energies)
        assert best <= error(other, weight, vectors) * (1 + 1e-9)


def test_the_plain_decomposition_is_that_of_singular_values():
    weight, _ = problem(0)
    assert torch.allclose(principal_directions(weight)[1].sqrt(), torch.linalg.svdvals(weight), atol=1e-10)


@given(st.integers(0, 1000))
def test_one_latent_for_both_is_never_worse_than_two_of_the_same_size(seed):
    weight, vectors = problem(seed)
    keys, values = weight[:3], weight[3:]
    covariance = second_moment(vectors)
    together = factorise(weight, 4, covariance)
    apart = factorise_apart([keys, values], [2, 2], covariance)
    assert error(together, weight, vectors) <= error(apart, weight, vectors) * (1 + 1e-9)
    assert (apart.expand[:3, 2:] == 0).all()
    assert (apart.expand[3:, :2] == 0).all()
    total = float(((vectors @ weight.T) ** 2).sum(1).mean())
    assert error(apart, weight, vectors) == pytest.approx(apart.energy_lost * total, rel=1e-6, abs=1e-12 * total)


@given(st.lists(st.lists(st.floats(0.01, 10), min_size=3, max_size=3), min_size=2, max_size=3), st.data())
def test_no_other_allotment_loses_less(layers, data):
    energies = [torch.tensor(sorted(values, reverse=True), dtype=torch.float64) for values in layers]
    total = data.draw(st.integers(len(layers), 3 * len(layers)))
    ranks = allot_ranks(energies, total)
    assert sum(ranks) == total

    def lost(allotment):
        return sum(float(e[r:].sum() / e.sum()) for e, r in zip(energies, allotment, strict=True))

    others = [choice for choice in itertools.product((1, 2, 3), repeat=len(layers)) if sum(choice) == total]
    assert lost(ranks) <= min(map(lost, others)) + 1e-12


def test_a_direction_that_float32_loses_is_found():
    """Energies are squares: of directions that differ by 1e5 they differ by 1e10, more than float32 can hold."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0] for _ in "ab")
    sizes = torch.logspace(0, -5, 8, dtype=torch.float64)
    weight = (left * sizes @ right.T).float()
    last = right[:, -1]
    factors = factorise(weight, 8)
    assert torch.allclose(factors.energies.sqrt(), sizes, rtol=0.02)
    assert torch.allclose(factors.expand @ factors.compress, weight.double(), atol=1e-12)
    assert float((factors.expand[:, -1] @ left[:, -1]).abs()) > 0.999
    # What a covariance leaves of the input is told apart likewise.
    covariance = torch.eye(8, dtype=torch.float64) - (1 - 1e-12) * torch.outer(last, last)
    kept = factorise(weight, 7, covariance)
    assert float(((kept.expand @ kept.compress - weight.double()) @ right[:, 0]).norm()) < 1e-9
    values = torch.linalg.eigvalsh(weight @ weight.T)
    assert not torch.allclose(values.clamp(min=0).sqrt().flip(0).double(), sizes, rtol=0.02)


def test_impossible_ranks_are_refused():
    weight, _ = problem(0)
    with pytest.raises(ValueError, match="rank=7 must be between 1 and 6"):
        factorise(weight, 7)
    with pytest.raises(ValueError, match="total=1 must be between 2 and 12"):
        allot_ranks([torch.ones(6), torch.ones(6)], 1)
    with pytest.raises(ValueError, match="finite"):
        factorise(weight * torch.nan, 2)
    with pytest.raises(ValueError, match="covariance is of"):
        factorise(weight, 2, torch.eye(4))

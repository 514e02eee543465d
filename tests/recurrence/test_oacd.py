import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from newllm.recurrence.oacd import oacd_loss, oacd_terms


def reference(x: np.ndarray, weight: float) -> float:
    mean = x.sum(axis=0) / len(x)
    distance = np.sqrt(((x - mean) ** 2).sum()) / len(x)
    return -distance + weight * (mean @ mean)


@given(st.integers(1, 40), st.integers(1, 20), st.floats(0, 5), st.integers(0, 1000))
def test_equals_the_formula_in_float64(rows, width, weight, seed):
    x = torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3 + 1
    assert oacd_loss(x, weight).item() == pytest.approx(reference(x.numpy(), weight), rel=1e-12, abs=1e-12)


def test_terms_are_apart_and_the_default_weight_is_a_tenth():
    x = torch.randn(50, 8, dtype=torch.float64) + 2
    terms = oacd_terms(x)
    assert terms.distance < 0 < terms.centroid
    assert oacd_loss(x).item() == pytest.approx((terms.distance + 0.1 * terms.centroid).item(), rel=1e-14)


def test_gradient_is_right():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(oacd_loss, (x,))


def test_a_single_row_has_a_finite_gradient():
    # The norm of x - mean has no derivative at zero, where the last mini-batch of a stream may be.
    x = torch.ones(1, 4, requires_grad=True)
    oacd_loss(x).backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 3, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        oacd_loss(torch.zeros(shape))

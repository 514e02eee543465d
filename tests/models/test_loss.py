import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.models import create, loss
from newllm.models.loss import IGNORED_LABEL, linear_cross_entropy, next_token_loss, next_token_loss_from_logits


@settings(deadline=None)
@given(
    tokens=st.integers(1, 40),
    vocabulary=st.integers(2, 30),
    chunk=st.integers(1, 17),
    ignored=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_equals_plain_cross_entropy_with_its_gradients(tokens, vocabulary, chunk, ignored, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 6, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(vocabulary, 6, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < ignored] = IGNORED_LABEL
    count = max(1, int((targets != IGNORED_LABEL).sum()))
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="sum") / count
    expected_gradients = torch.autograd.grad(expected * 3, (hidden, weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "CHUNK_TOKENS", chunk)
        actual = linear_cross_entropy(hidden, weight, targets)
        gradients = torch.autograd.grad(actual * 3, (hidden, weight))
    assert torch.allclose(actual, expected, atol=1e-12, rtol=1e-12)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, reference, atol=1e-12, rtol=1e-12)


def test_gradient_only_where_asked():
    hidden = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(7, 4)
    linear_cross_entropy(hidden, weight, torch.arange(5)).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_labels_are_shifted_exactly_once():
    """A model that puts all mass on the true next token has no loss; on the token itself, or two on, a large one."""
    ids = torch.tensor([[3, 1, 4, 1, 5, 2, 6]])
    weight = torch.eye(8, dtype=torch.float64) * 50

    def loss_of_predicting(offset):
        return next_token_loss(F.one_hot(ids.roll(-offset, 1), 8).double(), weight, ids).item()

    assert loss_of_predicting(1) < 1e-9
    assert loss_of_predicting(0) > 10
    assert loss_of_predicting(2) > 10


def test_training_and_evaluation_report_the_same_loss():
    torch.manual_seed(0)
    model = create("pythia", "tiny").double()
    ids = torch.arange(24).view(2, 12)
    labels = ids.clone()
    labels[0, :5] = IGNORED_LABEL
    trained = model.train()(ids, labels=labels)
    evaluated = model.eval()(ids, labels=labels)
    assert trained.logits is None
    assert trained.loss.item() == pytest.approx(evaluated.loss.item(), abs=1e-12)
    assert next_token_loss_from_logits(evaluated.logits, labels).item() == pytest.approx(trained.loss.item(), abs=1e-12)


def test_autocast_keeps_the_loss_close():
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(64, 32), torch.randn(50, 32), torch.arange(64) % 50
    exact = linear_cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = linear_cross_entropy(hidden, weight.requires_grad_(), targets)
    rounded.backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    # bfloat16 keeps 8 bits; the logits here are of size sqrt(32).
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_gradients_of_many_chunks_add_up_in_float32_under_autocast(monkeypatch):
    """What bfloat16 loses is one rounding, whatever the number of chunks."""
    torch.manual_seed(0)
    hidden, targets = 1 + torch.rand(8192, 4), torch.zeros(8192, dtype=torch.long)
    weight = torch.zeros(3, 4, requires_grad=True)
    monkeypatch.setattr(loss, "CHUNK_TOKENS", 8)
    (exact,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (rounded,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), weight)
    assert rounded == pytest.approx(exact, rel=2**-7)

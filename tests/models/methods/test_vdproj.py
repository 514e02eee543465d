"""Narrow values: what is cached, and equality with the full model that has the same values padded with zeros."""

import pytest
import torch

from newllm.evaluation.probing import logits_in_pieces
from newllm.models import create

IDS = torch.randint(512, (2, 24), generator=torch.Generator().manual_seed(0))


def create_tiny(**overrides):
    torch.manual_seed(1)
    return create("vdproj", "tiny", initializer_range=0.2, **overrides).double().eval()


def test_values_are_cached_at_their_width():
    model = create_tiny(value_dim=20)
    for layer in model(IDS, use_cache=True).past_key_values.layers:
        assert layer.keys.shape == (2, 4, 24, 16)
        assert layer.values.shape == (2, 4, 24, 5)
    with torch.device("meta"):
        assert create("vdproj", "70m").cached_values(1) / create("pythia", "70m").cached_values(1) == 1 - 0.1875


@pytest.mark.parametrize("value_dim", [4, 40, 128])
def test_equals_a_pythia_with_the_missing_values_at_zero(value_dim):
    """Values wider than a head are possible too; they have no such Pythia, but must still run."""
    narrow = create_tiny(value_dim=value_dim)
    logits = logits_in_pieces(narrow, IDS, [5, 1, 10, 8])[0]
    if value_dim > 64:
        assert torch.allclose(logits, narrow(IDS).logits, atol=1e-9, rtol=0)
        return
    full = create("pythia", "tiny").double().eval()
    heads, width, value_width = 4, 16, value_dim // 4
    weights = full.state_dict()
    for name, tensor in narrow.state_dict().items():
        if "query_key_value" in name:
            by_head = tensor.view(heads, 2 * width + value_width, *tensor.shape[1:])
            target = torch.zeros(heads, 3 * width, *tensor.shape[1:], dtype=tensor.dtype)
            target[:, : 2 * width + value_width] = by_head
            weights[name] = target.flatten(0, 1)
        elif "attention.dense.weight" in name:
            target = torch.zeros(64, heads, width, dtype=tensor.dtype)
            target[:, :, :value_width] = tensor.view(64, heads, value_width)
            weights[name] = target.flatten(1)
        else:
            weights[name] = tensor
    full.load_state_dict(weights)
    assert torch.allclose(logits, full(IDS).logits, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"value_dim": 0}, "value_dim=0"),
        ({"value_dim": 64}, "which is pythia"),
        ({"value_dim": 30}, "multiple of num_attention_heads=4"),
        ({"num_key_value_heads": 2}, "vdproj has no setting 'num_key_value_heads'"),
    ],
)
def test_impossible_requests_are_refused(overrides, reason):
    with pytest.raises(ValueError, match=reason):
        create("vdproj", "tiny", **overrides)

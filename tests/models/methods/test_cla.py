"""Layers that share keys and values: what is cached, and equality with the layers that would have them alone."""

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from newllm.models import configure, create, sizes
from newllm.models.registry import SIZES

IDS = torch.randint(512, (2, 24), generator=torch.Generator().manual_seed(0))


def create_tiny(**overrides):
    torch.manual_seed(1)
    return create("cla", "tiny", initializer_range=0.2, **overrides).double().eval()


def values_per_token(name, size, **overrides):
    with torch.device("meta"):
        model = create(name, size, **overrides)
    return model.cached_values(1001) - model.cached_values(1000)


@pytest.mark.parametrize("size", sizes())
def test_it_keeps_the_bytes_of_context_at_every_size_whose_heads_can_be_quartered(size):
    kept, allowed = (values_per_token(name, size) for name in ("cla", "context"))
    assert kept == allowed or (SIZES[size].heads % 4 and kept < allowed)


@pytest.mark.parametrize(("sharing", "groups", "values"), [(2, 8, 3072), (3, 8, 2048), (3, 1, 256), (4, 2, 512)])
def test_values_cached_at_70m(sharing, groups, values):
    assert values_per_token("cla", "70m", layers_sharing=sharing, num_key_value_heads=groups) == values


def test_one_stock_layer_for_each_run_of_layers():
    model = create_tiny(num_hidden_layers=5, layers_sharing=2, num_key_value_heads=2)
    cache = model(IDS, use_cache=True).past_key_values
    assert model.cache_layout() == [DynamicLayer] * 3 and len(cache.layers) == 3
    assert {layer.keys.shape for layer in cache.layers} == {(2, 2, 24, 16)}
    has_keys = [hasattr(layer.attention, "key_value") for layer in model.gpt_neox.layers]
    assert has_keys == [True, False, True, False, True]


@torch.no_grad()
def test_each_layer_attends_to_what_the_first_of_its_run_makes():
    """By formula, from the states that enter each block."""
    model = create_tiny(num_hidden_layers=3, layers_sharing=2, num_key_value_heads=2, position="none")
    entering, added = {}, {}

    def keep(module, given, output):
        entering[module.layer_index], added[module.layer_index] = given[0], output

    for layer in model.gpt_neox.layers:
        layer.attention.register_forward_hook(keep)
    model(IDS)
    layers = [layer.attention for layer in model.gpt_neox.layers]
    for index, first in ((0, 0), (1, 0), (2, 2)):
        queries = layers[index].query(entering[index]).view(2, 24, 4, 16).transpose(1, 2)
        keys, values = layers[first].key_value(entering[first]).view(2, 24, 4, 16).transpose(1, 2).split(2, dim=1)
        scores = queries @ keys.repeat_interleave(2, 1).mT / 4
        weights = scores.masked_fill(torch.ones(24, 24).triu(1).bool(), -torch.inf).softmax(-1)
        expected = layers[index].dense((weights @ values.repeat_interleave(2, 1)).transpose(1, 2).flatten(2))
        assert torch.allclose(added[index], expected, atol=1e-12, rtol=0)


def test_gradients_reach_shared_keys_through_every_layer_with_checkpointing_too():
    def gradients(model):
        model.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        return [part.grad for part in model.parameters()]

    model = create_tiny(num_hidden_layers=4, layers_sharing=3).train()
    expected = gradients(model)
    model.activation_checkpointing_enable()
    torch.testing.assert_close(gradients(model), expected)
    with pytest.raises(ValueError, match="use_reentrant=True would lose"):
        model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant=True would lose"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"layers_sharing": 1}, "which is pythia: take that instead"),
        ({"layers_sharing": 0}, "layers_sharing=0 must be at least 1"),
        ({"layers_sharing": 3}, "layers_sharing=3 must be at most num_hidden_layers=2"),
        ({"num_key_value_heads": 3}, "must divide"),
    ],
)
def test_impossible_requests_are_refused(overrides, reason):
    with pytest.raises(ValueError, match=reason):
        configure("cla", "tiny", **overrides)

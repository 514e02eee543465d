import pytest
import torch
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer

from newllm.evaluation.cache import held_bytes
from newllm.models import create
from newllm.models.cache_layers import RecurrentStateLayer, fill_layers

IDS = torch.randint(512, (3, 21), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create("dproj", "tiny").double().eval()


@pytest.mark.parametrize("make", [lambda model: DynamicCache(), lambda model: DynamicCache(config=model.config)])
def test_a_stock_cache_gets_the_layers_it_lacks(model, make):
    cache = make(model)
    logits = torch.cat([model(part, past_key_values=cache).logits for part in IDS.split([9, 1, 11], 1)], 1)
    assert torch.allclose(logits, model(IDS).logits, atol=1e-12, rtol=0)
    assert type(cache.layers[-1]) is RecurrentStateLayer
    assert cache.get_seq_length() == cache.layers[-1].get_seq_length() == 21


def test_refuses_another_models_cache(model):
    other = create("pythia", "tiny", num_hidden_layers=3).double().eval()
    cache = other(IDS, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="new_cache"):
        model(IDS, past_key_values=cache)


def test_refuses_a_cache_of_fixed_length(model):
    with pytest.raises(ValueError, match="DynamicCache"):
        model(IDS, past_key_values=StaticCache(config=model.config, max_cache_len=32))


def test_bytes_are_those_of_the_tensors(model):
    cache = model.new_cache()
    assert held_bytes(cache) == 0
    model(IDS, past_key_values=cache)
    assert held_bytes(cache) == 3 * model.cached_values(21) * 8


def test_state_owns_its_memory(model):
    """A view of the last context would keep the whole prompt's contexts alive behind it."""
    cache = model.new_cache()
    model(IDS, past_key_values=cache)
    state = cache.layers[-1].state
    assert state.untyped_storage().nbytes() == state.numel() * state.element_size()


def test_crop_of_a_state_needs_recording(model):
    cache = model.new_cache()
    model(IDS, past_key_values=cache)
    with pytest.raises(RuntimeError, match="activate_past_recording"):
        cache.layers[-1].crop(-1)


@pytest.mark.parametrize("removed", [1, 5, 20])
def test_crop_with_recording_is_exact(model, removed):
    cache = model.new_cache()
    cache.activate_past_recording()
    model(IDS[:, :8], past_key_values=cache)
    model(IDS[:, 8:], past_key_values=cache)
    cache.crop(-removed)
    assert cache.get_seq_length() == 21 - removed
    continued = model(IDS[:, 21 - removed :], past_key_values=cache).logits
    assert torch.allclose(continued, model(IDS).logits[:, 21 - removed :], atol=1e-12, rtol=0)


def test_rows_move_with_the_cache(model):
    order = torch.tensor([2, 0])
    cache = model.new_cache()
    cache.activate_past_recording()
    model(IDS[:, :10], past_key_values=cache)
    cache.batch_select_indices(order)
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([3, 1, 2, 0]))
    rows = IDS[[0, 2, 0, 2]]
    assert torch.allclose(
        model(rows[:, 10:], past_key_values=cache).logits, model(rows).logits[:, 10:], atol=1e-12, rtol=0
    )
    cache.crop(-4)
    assert torch.allclose(
        model(rows[:, 17:], past_key_values=cache).logits, model(rows).logits[:, 17:], atol=1e-12, rtol=0
    )


def test_reset_forgets_everything(model):
    cache = model.new_cache()
    model(IDS, past_key_values=cache)
    cache.reset()
    assert torch.equal(model(IDS, past_key_values=cache).logits, model(IDS).logits)


def test_spare_unused_layers_are_dropped():
    cache = DynamicCache()
    cache.layers.extend(DynamicLayer() for _ in range(4))
    fill_layers(cache, [DynamicLayer])
    assert len(cache.layers) == 1


def test_wrong_mask_length_names_the_right_one(model):
    cache = model.new_cache()
    model(IDS, past_key_values=cache)
    with pytest.raises(ValueError, match=r"\(3, 22\)"):
        model(IDS[:, :1], past_key_values=cache, attention_mask=torch.ones(3, 1))

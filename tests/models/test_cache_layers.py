import copy

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, GPTNeoXConfig, GPTNeoXForCausalLM, StaticCache
from transformers.cache_utils import Cache, DynamicLayer
from transformers.generation.configuration_utils import ALL_STATIC_CACHE_IMPLEMENTATIONS

from newllm.evaluation.cache import held_bytes
from newllm.models import create, names
from newllm.models.cache_layers import RecurrentStateLayer
from newllm.models.decoder_cache import prepare_cache
from newllm.models.language_model import LanguageModel

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
    prepare_cache(cache, [DynamicLayer], "one", torch.float32, serves_other_layers=False)
    assert len(cache.layers) == 1


def test_wrong_mask_length_names_the_right_one(model):
    cache = model.new_cache()
    model(IDS, past_key_values=cache)
    with pytest.raises(ValueError, match=r"\(3, 22\)"):
        model(IDS[:, :1], past_key_values=cache, attention_mask=torch.ones(3, 1))


class OwnLayer(DynamicLayer):
    """A caller's layer."""


def of_every_model(name: str) -> LanguageModel:
    torch.manual_seed(0)
    made = create(name, "tiny").double().eval()
    made.generation_config.eos_token_id = None
    return made


@pytest.mark.parametrize("name", names())
def test_a_callers_layers_are_used_or_refused_and_never_replaced(name):
    made = of_every_model(name)
    ids = IDS[:1, :20]
    asked = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True}
    quantised = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    own = Cache(layers=[OwnLayer() for _ in made.cache_layout()])
    if not made.reads_cache_through_update:
        with pytest.raises(ValueError, match=r"quantised layers do not serve.*new_cache"):
            made.generate(ids, **quantised, **asked)
        with pytest.raises(ValueError, match=r"OwnLayer.*new_cache"):
            made(ids, past_key_values=own)
        with pytest.raises(ValueError, match=r"offload.*new_cache"):
            made(ids, past_key_values=DynamicCacheThatOffloads())
        return
    plain = made.generate(ids, **asked).past_key_values
    cache = made.generate(ids, **quantised, **asked).past_key_values
    assert held_bytes(cache) < 0.6 * held_bytes(plain)
    if made.cache_layout()[-1] is not DynamicLayer:
        own.layers.pop()
    assert torch.equal(made(ids, past_key_values=own).logits, made(ids).logits)
    assert {type(layer) for layer in own.layers} <= {OwnLayer, RecurrentStateLayer}


@pytest.mark.parametrize("name", names())
def test_a_cache_of_another_dtype_is_refused_and_stays_as_it_is(name):
    made = of_every_model(name)
    cache = made.new_cache()
    made.float()
    made(IDS[:1, :7], past_key_values=cache)  # empty, it is filled in whatever the model is now
    made.double()
    with pytest.raises(ValueError, match=r"filled in torch.float32, but the model now computes in torch.float64"):
        made(IDS[:1, 7:9], past_key_values=cache)
    made.float()
    assert cache.get_seq_length() == 7
    continued = made(IDS[:1, 7:9], past_key_values=cache).logits
    assert torch.allclose(continued, made(IDS[:1, :9]).logits[:, 7:], atol=1e-4)


@pytest.mark.parametrize("name", names())
def test_no_rows_are_no_logits(name):
    made = of_every_model(name)
    assert made(torch.zeros(0, 4, dtype=torch.long)).logits.shape == (0, 4, made.config.vocab_size)


@pytest.mark.parametrize("kind", ALL_STATIC_CACHE_IMPLEMENTATIONS)
def test_no_kind_of_static_cache_is_taken_and_none_is_ignored(model, kind):
    for asked in ({"cache_implementation": kind}, {"generation_config": GenerationConfig(cache_implementation=kind)}):
        with pytest.raises(ValueError, match=rf'no room that is fixed: leave cache_implementation="{kind}" out'):
            model.generate(IDS, max_new_tokens=2, pad_token_id=0, **asked)


def test_offloading_from_a_cpu_is_refused(model):
    with pytest.raises(ValueError, match="offloaded cache moves between an accelerator and the CPU"):
        model.generate(IDS, cache_implementation="offloaded", max_new_tokens=2, pad_token_id=0)


class DynamicCacheThatOffloads(DynamicCache):
    """What DynamicCache(offloading=True) is, which only a machine with an accelerator can make."""

    def __init__(self) -> None:
        super().__init__()
        self.offloading = True


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("kind", ["own", "stock"])
def test_a_refused_crop_leaves_every_layer_as_it_was(name, kind):
    made = of_every_model(name)
    ids = IDS[:, :9]
    cache = made.new_cache() if kind == "own" else DynamicCache()
    made(ids[:, :6], past_key_values=cache)
    if cache.is_croppable:
        return
    with pytest.raises(RuntimeError, match="cannot be cropped"):
        cache.crop(-1)
    assert {layer.get_seq_length() for layer in cache.layers} == {6}
    error = (made(ids[:, 6:], past_key_values=cache).logits - made(ids).logits[:, 6:]).abs().max().item()
    assert error < 1e-9


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(("held", "fed"), [(1, 3), (3, 1)])
def test_a_cache_of_another_batch_is_refused_and_stays_as_it_was(name, held, fed):
    made = of_every_model(name)
    cache = made.new_cache()
    made(IDS[:held, :12], past_key_values=cache)
    with pytest.raises(ValueError, match=f"{held} rows.*{fed}"):
        made(IDS[:fed, 12:], past_key_values=cache)
    error = (made(IDS[:held, 12:], past_key_values=cache).logits - made(IDS[:held]).logits[:, 12:]).abs().max().item()
    assert error < 1e-9


@pytest.mark.parametrize(
    ("filler", "reader"),
    [
        (("pythia", {}), ("ka", {})),
        (("ka", {}), ("pythia", {})),
        (("narrow", {}), ("dproj", {})),
        (("pythia", {}), ("pythia", {"position": "alibi"})),
        (("cascade", {}), ("cascade", {"token_context": "current"})),
    ],
)
def test_a_cache_of_another_model_is_refused_although_its_shapes_fit(filler, reader):
    ids = IDS % 512
    cache = create(filler[0], "tiny", **filler[1]).eval()(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="another model"):
        create(reader[0], "tiny", **reader[1]).eval()(ids[:, :1], past_key_values=cache)
    theirs = GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    )
    foreign = theirs(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="another model"):
        create("pythia", "tiny").eval()(ids[:, :1], past_key_values=foreign)


def test_a_cache_serves_models_that_differ_in_weights_and_paths_only():
    first = create("mla", "tiny").eval()
    config = copy.deepcopy(first.config)
    config.attention_path = "absorbed"
    second = type(first)(config).eval()
    second.load_state_dict(first.state_dict())
    cache = first(IDS[:, :9], use_cache=True).past_key_values
    torch.testing.assert_close(second(IDS[:, 9:], past_key_values=cache).logits, first(IDS).logits[:, 9:])


def test_layers_of_unequal_length_are_refused(model):
    cache = model.new_cache()
    model(IDS, past_key_values=cache)
    cache.layers[0].crop(-2)
    with pytest.raises(ValueError, match="unequal"):
        model(IDS[:, :1], past_key_values=cache)


def test_what_is_no_cache_is_refused(model):
    with pytest.raises(ValueError, match="tuple"):
        model(IDS, past_key_values=())


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("later", [None, "ones", "moved"])
def test_a_mask_that_says_otherwise_of_cached_tokens_is_refused(name, later):
    made = of_every_model(name)
    mask = torch.ones_like(IDS)
    mask[1, :4] = 0
    cache = made.new_cache()
    made(IDS[:, :12], attention_mask=mask[:, :12], past_key_values=cache)
    other = None if later is None else torch.ones_like(IDS)
    if later == "moved":
        other[1, :3] = 0
    with pytest.raises(ValueError, match="attention_mask says otherwise of the cached tokens"):
        made(IDS[:, 12:], attention_mask=other, past_key_values=cache)
    order = torch.tensor([1, 0, 1])
    cache.reorder_cache(order)
    logits = made(IDS[order, 12:], attention_mask=mask[order], past_key_values=cache).logits
    expected = made(IDS[order], attention_mask=mask[order]).logits[:, 12:]
    assert (logits - expected).abs().max() < 1e-9


def test_a_mask_that_is_added_to_scores_is_refused(model):
    mask = torch.zeros(3, 21)
    mask[0, :4] = -torch.inf
    with pytest.raises(ValueError, match="1 for real tokens"):
        model(IDS, attention_mask=mask)

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from newllm.models import create
from newllm.models.position import PositionEncodingConfig, build_alibi_bias_causal, causal_mask


@given(st.integers(1, 24), st.floats(0, 2))
def test_alibi_bias_entry_by_entry(seq_len, slope):
    bias = build_alibi_bias_causal(seq_len, slope)
    assert bias.shape == (seq_len, seq_len)
    for query in range(seq_len):
        for key in range(seq_len):
            expected = -slope * (query - key) if key <= query else -math.inf
            assert bias[query, key].item() == pytest.approx(expected, rel=1e-6)


@given(st.integers(1, 9), st.integers(0, 9))
def test_causal_mask_hides_exactly_the_later_keys(query_length, past):
    mask = causal_mask(query_length, past + query_length, torch.float32)
    for query in range(query_length):
        assert (mask[query] == 0).sum() == past + query + 1
        assert torch.isinf(mask[query, past + query + 1 :]).all()


@given(st.integers(0, 500), st.integers(0, 100), st.integers(0, 300))
def test_rotary_scores_depend_on_distance_alone(start, distance, shift):
    encoding = PositionEncodingConfig().build(head_dim=64, num_heads=1)
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(2, 1, 1, 1, 64, generator=generator, dtype=torch.float64).unbind(0)

    def score(query_at, key_at):
        rotated_query = encoding.rotate(query, torch.tensor([[query_at]]))
        rotated_key = encoding.rotate(key, torch.tensor([[key_at]]))
        return (rotated_query * rotated_key).sum().item()

    # Angles are float32, as in GPT-NeoX: at position 900 they carry an error of 900 * 2^-24.
    assert score(start + distance, start) == pytest.approx(score(start + distance + shift, start + shift), abs=5e-3)


def test_rotary_rotates_a_quarter_and_leaves_the_rest():
    encoding = PositionEncodingConfig().build(head_dim=64, num_heads=1)
    states = torch.randn(1, 2, 5, 64, generator=torch.Generator().manual_seed(0))
    rotated = encoding.rotate(states, torch.arange(5)[None])
    assert torch.equal(rotated[..., 16:], states[..., 16:])
    assert not torch.allclose(rotated[:, :, 1:, :16], states[:, :, 1:, :16])
    assert torch.equal(rotated[:, :, 0], states[:, :, 0])
    assert torch.allclose(rotated.norm(dim=-1), states.norm(dim=-1), atol=1e-5)


@pytest.mark.parametrize("head_dim", [37, 38, 40])
def test_rotary_width_is_even(head_dim):
    assert PositionEncodingConfig().build(head_dim, 1).rotary_dim % 2 == 0


@given(st.integers(2, 2048), st.floats(0, 1, exclude_min=True), st.sampled_from([0.25, 1.0]))
def test_what_turns_alike_is_said_in_one_way(head_dim, fraction, usual):
    given_one = PositionEncodingConfig(rotary_fraction=fraction)
    said = given_one.in_whole_pairs(head_dim, usual)
    assert said.build(head_dim, 1).rotary_dim == given_one.build(head_dim, 1).rotary_dim
    assert said.in_whole_pairs(head_dim, usual) == said


def test_slopes_by_head_are_those_of_the_paper():
    encoding = PositionEncodingConfig(type="alibi", alibi_slopes_by_head=True).build(head_dim=8, num_heads=8)
    assert encoding.slopes(torch.device("cpu")).tolist() == [2.0**-exponent for exponent in range(1, 9)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("learned", "choose one of"),
        ({"type": "rope", "slope": 1.0}, "no setting"),
        ({"type": "alibi", "alibi_slope": -1.0}, "not negative"),
        ({"type": "alibi", "alibi_slope": float("nan")}, "not negative"),
        ({"type": "rope", "rotary_base": float("inf")}, "larger than 1"),
        ({"type": "rope", "rotary_fraction": 0.0}, r"\(0, 1\]"),
        ({"type": "alibi", "alibi_slopes_by_head": "no"}, "alibi_slopes_by_head='no' must be true or false"),
        ({"type": "alibi", "alibi_slopes_by_head": 1}, "=1 must be true or false"),
        ({"type": "alibi", "alibi_slopes_by_head": 0.5}, "true or false"),
        ({"type": "alibi", "alibi_slopes_by_head": None}, "true or false"),
        ({"type": "alibi", "alibi_slope": True}, "alibi_slope=True must be a number"),
        ({"type": "alibi", "alibi_slope": 1e39}, "that float32 holds"),
        ({"type": "rope", "rotary_fraction": True}, "rotary_fraction=True must be a number"),
        ({"type": "rope", "rotary_base": "10000"}, "rotary_base='10000' must be a number"),
        ({"type": "rope", "rotary_base": [1]}, "must be a number"),
        ({"type": "rope", "rotary_base": 10**400}, "not one of hundreds of digits"),
        ({"type": "rope", "rotary_base": 1e39}, "as float32 holds it"),
        ({"type": "rope", "rotary_base": 1 + 1e-12}, "larger than 1, and finite, as float32"),
        ({"type": ["rope"]}, "choose one of"),
    ],
)
def test_impossible_encodings_are_refused(value, reason):
    with pytest.raises(ValueError, match=reason):
        PositionEncodingConfig.parse(value)


def test_whole_numbers_are_the_numbers_that_they_are():
    whole = PositionEncodingConfig(type="rope", rotary_fraction=1, rotary_base=500)
    assert repr(whole) == repr(PositionEncodingConfig(type="rope", rotary_fraction=1.0, rotary_base=500.0))


@pytest.mark.parametrize("slope", [0, 1e-300])
def test_a_slope_that_adds_nothing_is_refused(slope):
    with pytest.raises(ValueError, match="adds nothing to any score"):
        create("unified", "tiny", position="alibi", alibi_slope=slope)


@pytest.mark.parametrize(
    "position",
    [
        "none",
        PositionEncodingConfig(type="alibi", alibi_slope=0.25),
        PositionEncodingConfig(type="alibi", alibi_slopes_by_head=True),
        PositionEncodingConfig(type="rope", rotary_fraction=0.5, rotary_base=500.0),
    ],
)
def test_encoding_survives_config_json(tmp_path, position):
    model = create("unified", "tiny", position=position)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.position == PositionEncodingConfig.parse(position)
    ids = torch.arange(20)[None]
    assert torch.equal(model.eval()(ids).logits, loaded.eval()(ids).logits)


def test_alibi_still_acts_on_cached_keys():
    """The bias once broadcast to zero in decoding: cached must equal full with it, and differ from none."""
    torch.manual_seed(0)
    steep = create("unified", "tiny", position={"type": "alibi", "alibi_slope": 1.0}).double().eval()
    without = create("unified", "tiny", position="none").double().eval()
    without.load_state_dict(steep.state_dict())
    ids = torch.arange(30)[None] % 7
    last = {}
    for name, model in (("steep", steep), ("none", without)):
        cache = model.new_cache()
        model(ids[:, :-1], past_key_values=cache)
        last[name] = model(ids[:, -1:], past_key_values=cache).logits[0, -1]
        assert torch.allclose(last[name], model(ids).logits[0, -1], atol=1e-12, rtol=0)
    assert (last["steep"] - last["none"]).abs().max() > 1e-4

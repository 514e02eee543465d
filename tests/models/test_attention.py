"""The shared softmax equals its formula, for one query and for many, whatever the heads share."""

import pytest
import torch

from newllm import models
from newllm.evaluation.memory import TensorMemory
from newllm.models import attention
from newllm.models.attention import attend
from newllm.models.position import PositionEncodingConfig, causal_mask
from newllm.models.step import Step

HEADS, WIDTH, TOTAL = 4, 6, 9


def by_formula(queries, keys, values, bias):
    share = HEADS // keys.shape[1]
    keys, values = keys.repeat_interleave(share, 1), values.repeat_interleave(share, 1)
    return (queries @ keys.mT * 0.3 + bias).softmax(-1) @ values


@pytest.mark.parametrize("length", [1, 2, TOTAL])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("value_width", [3, 6, 8])
@pytest.mark.parametrize("by_head", [None, False, True])
@pytest.mark.parametrize("padding", [0, 3])
def test_attend_equals_its_formula(length, groups, value_width, by_head, padding):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, HEADS, length, WIDTH), (2, groups, TOTAL, WIDTH), (2, groups, TOTAL, value_width)]
    queries, keys, values = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    config = PositionEncodingConfig("none") if by_head is None else PositionEncodingConfig("alibi")
    if by_head:
        config = PositionEncodingConfig("alibi", alibi_slopes_by_head=True)
    encoding = config.build(WIDTH, HEADS)
    mask = torch.ones(2, TOTAL, dtype=torch.bool)
    mask[1, :padding] = False
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    step = Step(
        torch.zeros(2, length, WIDTH),
        positions[:, -length:],
        positions if padding else positions[:1],
        mask if padding else None,
        None,
    )
    bias = causal_mask(length, TOTAL, torch.float64).masked_fill(~mask[:, None, None], -torch.inf)
    if by_head is not None:
        distance = (positions[:, -length:, None] - positions[:, None]).abs().double()
        slopes = torch.tensor([2.0 ** (-2 * (head + 1)) for head in range(HEADS)] if by_head else [0.0625])
        bias = bias - slopes[None, :, None, None].double() * distance[:, None]
    found = attend(queries, keys, values, step, encoding, 0.3)
    real = mask[:, -length:]
    expected = by_formula(queries, keys, values, bias)
    assert found.shape == (2, HEADS, length, value_width)
    assert torch.allclose(found.transpose(1, 2)[real], expected.transpose(1, 2)[real], atol=1e-12, rtol=0)


def alibi_step(length, dtype, mask=None):
    return Step.build(torch.zeros(2, length, WIDTH, dtype=dtype), attention_mask=mask)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5), (torch.bfloat16, 2**-7)]
)
@pytest.mark.parametrize("slopes", [{"alibi_slope": 0.0625}, {"alibi_slope": 0.3}, {"alibi_slopes_by_head": True}])
def test_long_calls_under_alibi_equal_the_plain_bias(dtype, tolerance, slopes, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    encoding = PositionEncodingConfig("alibi", **slopes).build(WIDTH, HEADS)
    length = 700
    states = [torch.randn(2, heads, length, WIDTH, generator=generator).to(dtype) for heads in (HEADS, 2, 2)]
    # Rounded as the kernel's inputs are, and then exact.
    exact = by_formula(
        *(state.double() for state in states),
        encoding_bias(encoding, length) + causal_mask(length, length, torch.float64),
    )
    plain = attend(*states, alibi_step(length, dtype), encoding, 0.3)
    monkeypatch.setattr(attention, "LONG_CALL", 1)
    step = alibi_step(length, dtype)
    found = attend(*states, step, encoding, 0.3)
    assert "bias" not in {key[0] for key in step._shared}
    error = (found.double() - exact).abs().max()
    assert error <= tolerance
    # A distance in bfloat16 is rounded, the digits of a position are not.
    assert dtype != torch.bfloat16 or error <= 2 * (plain.double() - exact).abs().max()


def encoding_bias(encoding, length):
    positions = torch.arange(length)[None]
    return encoding.score_bias(positions, positions, torch.float64)


def test_padding_keeps_the_plain_bias(monkeypatch):
    monkeypatch.setattr(attention, "LONG_CALL", 1)
    mask = torch.ones(2, TOTAL, dtype=torch.bool)
    mask[0, :2] = False
    states = [torch.randn(2, HEADS, TOTAL, WIDTH) for _ in range(3)]
    step = alibi_step(TOTAL, torch.float32, mask)
    attend(*states, step, PositionEncodingConfig("alibi").build(WIDTH, HEADS), 0.3)
    assert {key[0] for key in step._shared} == {"bias"}


@pytest.mark.parametrize("name", ["unified@alibi", "mla"])
def test_memory_of_a_long_prefill_under_alibi_grows_with_its_length_alone(name):
    settings = {"position": "alibi"} if name == "unified@alibi" else {}
    model = models.create(name.partition("@")[0], "tiny", **settings).eval()

    def peak(length: int) -> int:
        ids = torch.zeros(1, length, dtype=torch.long)
        with torch.no_grad(), TensorMemory() as memory:
            model(ids, use_cache=True, logits_to_keep=1)
        return memory.peak

    shorter, longer = peak(attention.LONG_CALL), peak(2 * attention.LONG_CALL)
    assert longer <= 2.1 * shorter
    assert longer < 4 * (2 * attention.LONG_CALL) ** 2, "a tensor of all pairs would be larger"

"""The shared softmax equals its formula, for one query and for many, whatever the heads share."""

import pytest
import torch

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

"""What orders the tokens: nothing in one block without an encoding, the mask from the second on, an encoding always."""

import math

import pytest
import torch

from newllm.evaluation.order import order_sensitivity, score_by_distance
from newllm.models import create
from newllm.models.position import PositionEncodingConfig

ROUNDING = 1e-9


def sensitivity(position, layers, **overrides):
    torch.manual_seed(0)
    return order_sensitivity(create("unified", "tiny", position=position, num_hidden_layers=layers, **overrides))


def test_one_block_without_an_encoding_reads_a_set():
    assert sensitivity("none", 1) < ROUNDING


@pytest.mark.parametrize(("position", "layers"), [("none", 2), ("rope", 1), ("alibi", 1), ("alibi", 2)])
def test_the_mask_of_a_second_block_and_each_encoding_order_tokens(position, layers):
    assert sensitivity(position, layers, initializer_range=0.2) > 1e-4


def test_the_model_is_left_as_it_was():
    model = create("unified", "tiny", position="none").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    order_sensitivity(model)
    assert model.training
    assert model.dtype == torch.float32
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match="3 or more"):
        order_sensitivity(create("unified", "tiny"), tokens=2)


def test_scores_by_distance_are_those_of_the_formulae():
    steep = PositionEncodingConfig(type="alibi", alibi_slope=0.5)
    table = score_by_distance(["rope", steep, "none"], head_dim=16, longest=9)
    scores = {name: rows.set_index("distance")["score"] for name, rows in table.groupby("encoding")}
    assert all(list(values.index) == list(range(10)) for values in scores.values())
    assert all(values[0] == pytest.approx(4) for values in scores.values()), "no distance, no change"
    assert (scores["none"] == 4).all()
    assert scores["alibi"].tolist() == pytest.approx([4 - 0.5 * distance for distance in range(10)])
    # A quarter of 16 is rotated: two pairs, of wavelengths 2 pi and 100 x 2 pi.
    expected = [(12 + 2 * math.cos(d) + 2 * math.cos(d / 100)) / 4 for d in range(10)]
    assert scores["rope"].tolist() == pytest.approx(expected, abs=1e-6)

"""Moments gathered in a stream are those of all vectors at once, whatever the pieces, and of a real model's layers."""

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from newllm.models import create
from newllm.retrofit.calibration import Moments, calibrate


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.floats(-1e6, 1e6))
def test_pieces_do_not_matter(sizes, offset):
    """A large common offset must not swallow the covariance."""
    generator = torch.Generator().manual_seed(sum(sizes))
    pieces = [torch.randn(size, 4, generator=generator, dtype=torch.float64) + offset for size in sizes]
    vectors = torch.cat(pieces)
    moments = Moments(4)
    for piece in pieces:
        moments.add(piece)
    if not len(vectors):
        with pytest.raises(ValueError, match="calibration text"):
            _ = moments.covariance
        return
    centred = vectors - vectors.mean(0)
    assert moments.count == len(vectors)
    assert torch.allclose(moments.covariance, centred.T @ centred / len(vectors), atol=1e-9)
    assert torch.allclose(moments.mean, vectors.mean(0), rtol=1e-12)


def test_the_inputs_of_a_model_s_layers_are_seen():
    torch.manual_seed(0)
    model = create("pythia", "tiny").double()
    norms = {number: layer.input_layernorm for number, layer in enumerate(model.gpt_neox.layers)}
    batches = [torch.randint(0, 512, (2, 9)) for _ in range(3)]
    moments = calibrate(model, norms, batches)
    expected = torch.cat([norms[0](model.gpt_neox.embed_in(ids)).flatten(0, 1) for ids in batches])
    assert moments[0].count == 3 * 2 * 9
    assert torch.allclose(moments[0].second_moment, expected.T @ expected / len(expected), atol=1e-12)
    assert set(moments) == {0, 1}
    assert not any(module._forward_hooks for module in norms.values())


def test_memory_does_not_grow_with_the_text():
    """Of what was read before, nothing is alive but the moments: no batch, and no state of a layer."""
    model = create("pythia", "tiny")
    norm = model.gpt_neox.layers[0].input_layernorm
    seen: list[weakref.ref] = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(weakref.ref(output)))

    def batches():
        for number in range(8):
            # The loop that reads still holds the batch before.
            assert [ref for ref in seen[: 2 * number - 2] if ref() is not None] == []
            ids = torch.randint(0, 512, (2, 9))
            seen.append(weakref.ref(ids))
            yield ids

    moments = calibrate(model, {0: norm}, batches())
    assert len(seen) == 16 and moments[0].count == 8 * 18
    assert {name: value.shape for name, value in vars(moments[0]).items() if isinstance(value, torch.Tensor)} == {
        "mean": (64,),
        "_scatter": (64, 64),
    }


def test_no_text_is_refused():
    model = create("pythia", "tiny")
    with pytest.raises(ValueError, match="no calibration text"):
        calibrate(model, {0: model.gpt_neox.layers[0].input_layernorm}, [])

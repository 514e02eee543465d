"""Attention that is taken away: where no layer attends nothing is remembered, and afterwards all is as it was."""

import numpy as np
import pytest
import torch

from newllm.evaluation.copying_layers import attention_taken_away, copying_by_layer
from newllm.evaluation.recall import repeated_passages
from newllm.models import create
from newllm.models.decoder import Decoder
from newllm.models.recurrent import RecurrentModel
from newllm.models.registry import find, names

DECODERS = [name for name in names() if issubclass(find(name).model_class, Decoder)]


@pytest.fixture(scope="module")
def stream():
    return np.random.default_rng(0).integers(0, 320, 800)


@pytest.mark.parametrize("method", DECODERS)
def test_without_any_attention_tokens_do_not_meet_but_in_a_recurrence(method):
    torch.manual_seed(0)
    model = create(method, "tiny", vocab_size=320).double().eval()
    ids = torch.randint(0, 320, (1, 12))
    changed = ids.clone()
    changed[0, 0] = (ids[0, 0] + 1) % 320
    layers = range(1, len(model.stack.layers) + 1)
    with torch.no_grad():
        before = model(ids).logits
        with attention_taken_away(model, layers):
            alone, other = model(ids).logits, model(changed).logits
        assert torch.equal(model(ids).logits, before)
    # Contexts of a recurrence have met the first token before any attention.
    assert torch.equal(alone[0, 1:], other[0, 1:]) != isinstance(model, RecurrentModel)
    assert not torch.equal(alone[0, 0], other[0, 0])


def test_each_row_is_what_is_measured_with_that_attention(stream):
    torch.manual_seed(0)
    model = create("pythia", "tiny", vocab_size=320)
    table = copying_by_layer(model, stream, 16, passages=4).set_index(["attention", "layer"])
    layers = list(range(1, len(model.stack.layers) + 1))
    assert list(table.index) == [("all", 0)] + [(kind, layer) for kind in ("without", "alone") for layer in layers]
    assert table.loc[("all", 0), "gain"] == repeated_passages(model, stream, [16], passages=4)["gain"].item()
    with attention_taken_away(model, {1}):
        assert table.loc[("without", 1), "gain"] == repeated_passages(model, stream, [16], passages=4)["gain"].item()
    with attention_taken_away(model, set(layers) - {2}):
        assert table.loc[("alone", 2), "gain"] == repeated_passages(model, stream, [16], passages=4)["gain"].item()
    with attention_taken_away(model, layers):
        # Nothing before a token is left to differ by.
        assert repeated_passages(model, stream, [16], passages=4)["gain"].item() == pytest.approx(0, abs=1e-6)

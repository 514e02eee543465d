"""What a position attends to, by gradient, is what the definition says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.evaluation.attended import attended_contexts
from newllm.models import create


def by_definition(tokens, chunk_size):
    """Contexts at the ends of chunks up to each position, and its own."""
    position, context = torch.arange(tokens)[:, None], torch.arange(tokens)
    at_end = (context + 1) % chunk_size == 0
    return (at_end & (context < position)) | (context == position)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(1, 15), st.sampled_from([[20], [12, 8]]))
def test_chunk_ends_and_the_own_context_and_nothing_else(tokens, chunk_size, widths):
    model = create("context-kv", "tiny", chunk_size=chunk_size, context_dims=widths)
    assert torch.equal(attended_contexts(model, tokens), by_definition(tokens, chunk_size))


@pytest.mark.parametrize("token_context", ["current", "previous"])
def test_a_cascade_reads_what_it_is_given_at_a_token_alone(token_context):
    model = create("cascade", "tiny", token_context=token_context)
    assert torch.equal(attended_contexts(model, 6), torch.eye(6, dtype=torch.bool))


def test_a_model_that_forgets_its_mask_is_seen(monkeypatch):
    model = create("context-kv", "tiny", chunk_size=4)
    attend = type(model.attention).forward
    monkeypatch.setattr(
        type(model.attention),
        "forward",
        lambda self, embeds, contexts, slots, visible: attend(self, embeds, contexts, slots, visible + 1),
    )
    assert attended_contexts(model, 12)[0].sum() == 2

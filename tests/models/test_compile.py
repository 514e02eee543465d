"""torch.compile takes a call as one graph: in a full pass, and in a decode step."""

import pytest
import torch

from newllm import models

TOKENS = 24


def explained(name: str, *, decodes: bool) -> tuple[int, list[str]]:
    """Return how many breaks there are in the graph of a call, and the lines where they are."""
    model = models.create(name, "tiny").eval()
    ids = torch.arange(TOKENS)[None]
    cache = model(ids, use_cache=True).past_key_values if decodes else None
    new = ids[:, :1] if decodes else ids
    torch._dynamo.reset()
    found = torch._dynamo.explain(lambda: model(new, past_key_values=cache, use_cache=decodes).logits)()
    lines = [str(reason.user_stack[-1]) for reason in found.break_reasons if reason.user_stack]
    return found.graph_break_count, lines


@torch.no_grad()
@pytest.mark.parametrize("decodes", [False, True])
@pytest.mark.parametrize("name", ["pythia", "mla", "context"])
def test_a_call_is_one_graph(name, decodes):
    breaks, lines = explained(name, decodes=decodes)
    assert breaks == 0, lines

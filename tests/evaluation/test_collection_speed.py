import pytest
import torch

from newllm.evaluation.collection_speed import time_collection
from newllm.models import create

IDS = torch.randint(512, (3000,), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    """Two blocks that forget fast, so that the parallel way is worth it."""
    torch.manual_seed(0)
    model = create("cascade", "tiny")
    for block in model.context_blocks:
        block.layer.linear.weight.data[:, block.proj_dim :] *= 3
    return model


def test_both_ways_see_the_same_contexts_and_are_timed_for_the_same_stream(model):
    speed = time_collection(model, IDS, "cpu", loop_tokens=500)
    assert (speed.tokens, speed.loop_tokens) == (3000, 500)
    assert speed.rounds >= 1
    assert not speed.sequential
    assert speed.residual <= 1e-5
    assert 0 < speed.largest_difference < 1e-4
    table = speed.table().set_index("collection")
    assert table["tokens run"].tolist() == [3000, 500]
    assert table["seconds for the stream"].tolist() == pytest.approx([speed.seconds, 6 * speed.loop_seconds])


def test_a_stream_shorter_than_the_loop_may_run_is_run_whole(model):
    speed = time_collection(model, IDS[:64], "cpu", loop_tokens=500)
    assert speed.loop_tokens == speed.tokens == 64


def test_a_difference_is_seen(model, monkeypatch):
    monkeypatch.setattr(
        "newllm.evaluation.collection_speed.collect_context_cache_sequential_multiblock",
        lambda model, ids, *_: torch.full((len(ids), 80), 100.0),
    )
    assert time_collection(model, IDS, "cpu", loop_tokens=10).largest_difference > 90

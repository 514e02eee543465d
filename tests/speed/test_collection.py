"""Context collection: parallel in time against token by token. Compare the rows of one width.

Run with ``pytest tests/speed/test_collection.py --benchmark-enable``; ratios stand in brackets beside the times.
"""

from functools import cache
from itertools import islice

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from newllm import models
from newllm.config.groups import ProjectionParameters
from newllm.data.sources import open_source
from newllm.models.recurrent import RecurrentModel
from newllm.recurrence.collection import collect_context_cache, collect_context_cache_sequential
from newllm.recurrence.training import train_projection

CONTEXT_DIMS = [320, 500]


def text(tokens: int) -> torch.Tensor:
    """Bytes of real text: what repeats in it, random ids lack, and it decides how a recurrence forgets."""
    documents = (document["text"] for document in open_source("sotu").documents())
    return torch.tensor(list("\n".join(islice(documents, 1 + tokens // 1000)).encode()[:tokens]))


@cache
def make(proj_dim: int, quick: bool) -> tuple[RecurrentModel, torch.Tensor]:
    """Train a block of the 70m width, make a stream: long where time is taken, short where it only has to run."""
    torch.manual_seed(0)
    model = models.create("dproj", "tiny", embedding_size=512, proj_dim=proj_dim)
    assert isinstance(model, RecurrentModel)
    ids = text(1500 if quick else 100_000)
    parameters = ProjectionParameters(max_iterations=5 if quick else 60)
    train_projection(model, ids[:10_000], parameters, device="cpu", seed=0)
    return model.requires_grad_(False), ids


@pytest.mark.parametrize("proj_dim", CONTEXT_DIMS)
def test_parallel(benchmark: BenchmarkFixture, proj_dim: int) -> None:
    benchmark.group = f"collection, P {proj_dim}"
    model, ids = make(proj_dim, benchmark.disabled)
    collected = benchmark.pedantic(
        lambda: collect_context_cache(model.projection, model.normed_embeddings(ids)), rounds=3, warmup_rounds=1
    )
    benchmark.extra_info["sequential"] = collected.sequential
    benchmark.extra_info["rounds"], benchmark.extra_info["residual"] = collected.rounds, collected.residual


@pytest.mark.parametrize("proj_dim", CONTEXT_DIMS)
def test_sequential(benchmark: BenchmarkFixture, proj_dim: int) -> None:
    benchmark.group = f"collection, P {proj_dim}"
    model, ids = make(proj_dim, benchmark.disabled)
    contexts = benchmark.pedantic(lambda: collect_context_cache_sequential(model, ids, "cpu"), rounds=1)
    collected = collect_context_cache(model.projection, model.normed_embeddings(ids))
    assert (collected.contexts - contexts).abs().max() < 1e-4, "also where it does not contract"

"""An OACD pass with all tokens in parallel against the literal loop over tokens, forward and backward.

Run with ``pytest tests/speed/test_projection_training.py --benchmark-enable``; the ratio stands in brackets.
"""

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from newllm import models
from newllm.config.groups import ProjectionParameters
from newllm.models.recurrent import RecurrentModel
from newllm.recurrence.oacd import oacd_loss
from newllm.recurrence.training import train_projection

GROUP = "one OACD pass"


def make(benchmark: BenchmarkFixture) -> tuple[RecurrentModel, torch.Tensor]:
    torch.manual_seed(0)
    tokens = 200 if benchmark.disabled else 20_000
    model = models.create("dproj", "tiny", embedding_size=512, proj_dim=320)
    assert isinstance(model, RecurrentModel)
    return model, torch.randint(512, (tokens,), generator=torch.Generator().manual_seed(0))


def test_parallel(benchmark: BenchmarkFixture) -> None:
    """Two iterations are one pass; embedding the stream and the spectrum of its contexts are counted in."""
    benchmark.group = GROUP
    model, ids = make(benchmark)
    parameters = ProjectionParameters(max_iterations=2)
    result = benchmark.pedantic(
        lambda: train_projection(model, ids, parameters, device="cpu", seed=0), rounds=3, warmup_rounds=1
    )
    assert len(result.history) == 1


def test_literal_loop(benchmark: BenchmarkFixture) -> None:
    """Every context from the one before it; gradients end at the start of a mini-batch."""
    benchmark.group = GROUP
    model, ids = make(benchmark)
    projection = model.projection
    optimizer = torch.optim.Adam(projection.parameters(), lr=0.003)

    def one_pass() -> torch.Tensor:
        state = torch.zeros(1, projection.proj_dim)
        batches = ids.split(5000)
        for batch in batches:
            embeds = model.normed_embeddings(batch).detach()[None]
            contexts = projection.unroll(embeds, state)[0]
            (oacd_loss(contexts) / len(batches)).backward()
            state = contexts[-1:].detach()
        torch.nn.utils.clip_grad_norm_(projection.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()
        return state

    assert benchmark.pedantic(one_pass, rounds=1).isfinite().all()

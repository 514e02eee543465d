import copy
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from newllm import models
from newllm.files import UnwritableError
from newllm.models.projection import DiverseProjection
from newllm.models.recurrent import RecurrentModel
from newllm.recurrence.collection import (
    collect_context_cache,
    collect_context_cache_sequential,
    collect_context_cache_sequential_multiblock,
    collect_model_contexts,
)

EMBED_DIM, PROJ_DIM = 24, 12


def make_block(context_gain: float = 1.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> DiverseProjection:
    """A block whose tokens weigh as much as in a wide one; a large ``context_gain`` makes it amplify what differs."""
    torch.manual_seed(seed)
    block = DiverseProjection(EMBED_DIM, PROJ_DIM).to(dtype)
    with torch.no_grad():
        block.layer.linear.weight[:, :PROJ_DIM] *= context_gain
        block.layer.linear.weight[:, PROJ_DIM:] *= 3
    return block.requires_grad_(False)


def make_stream(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    table = F.layer_norm(torch.randn(40, EMBED_DIM, generator=generator, dtype=dtype), (EMBED_DIM,))
    return table[torch.randint(40, (tokens,), generator=generator)]


def literal_loop(block: DiverseProjection, embeds: Tensor) -> Tensor:
    context, contexts = torch.zeros(block.proj_dim, dtype=embeds.dtype), []
    for embed in embeds:
        context = block(context, embed)
        contexts.append(context)
    return torch.stack(contexts)


def make_model(blocks: int = 1) -> RecurrentModel:
    torch.manual_seed(0)
    model = models.create("dproj", "tiny").double()
    assert isinstance(model, RecurrentModel)
    for _ in range(blocks - 1):
        model.context_blocks.append(DiverseProjection(64, 24).double())
    return model.requires_grad_(False)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 800), st.sampled_from([0.3, 1.0, 3.0, 10.0, 30.0, 100.0]), st.integers(0, 20))
def test_parallel_equals_the_loop_whatever_the_recurrence(tokens, gain, seed):
    block, embeds = make_block(gain, seed), make_stream(tokens, seed)
    collected = collect_context_cache(block, embeds, tolerance=1e-11)
    assert (collected.contexts - literal_loop(block, embeds)).abs().max() < 1e-9
    assert collected.residual <= 1e-11


def test_a_contracting_block_runs_in_parallel():
    collected = collect_context_cache(make_block(), make_stream(2000))
    assert not collected.sequential
    assert 1 <= collected.rounds <= 3
    assert 0 <= collected.residual <= 1e-5


def test_an_expanding_block_falls_back_and_gives_the_very_bits_of_the_loop():
    block, embeds = make_block(30.0, seed=1, dtype=torch.float32), make_stream(800, dtype=torch.float32)
    nudged = literal_loop(block, torch.cat([embeds[:1] * (1 + 1e-6), embeds[1:]]))
    expected = literal_loop(block, embeds)
    assert (nudged - expected).abs().max() > 0.1  # it does amplify
    collected = collect_context_cache(block, embeds)
    assert collected.sequential
    assert torch.equal(collected.contexts, expected)


class Counted(nn.Module):
    """A recurrence that adds up what its steps cost, in steps of the loop, whatever their rows."""

    def __init__(self, recurrence: nn.Module, proj_dim: int) -> None:
        super().__init__()
        self.recurrence, self.proj_dim = recurrence, proj_dim
        self.cost = 0.0

    def forward(self, prev: Tensor, embeds: Tensor) -> Tensor:
        self.cost += 1 if len(prev) == 1 else 1 + len(prev) / 32
        return self.recurrence(prev, embeds)


class DriftsApart(nn.Module):
    """Seems to fade wherever it is probed, but keeps every disturbance over tokens that stand between those places."""

    def forward(self, prev: Tensor, embeds: Tensor) -> Tensor:
        return torch.where(embeds[:, :1] > 50, 1.0, 0.5).to(prev.dtype) * prev + embeds[:, :4]


@pytest.mark.parametrize("tokens", [300, 1200, 6000])
@pytest.mark.parametrize("gain", [1.0, 2.0, 5.0, 30.0])
def test_collecting_costs_at_most_a_tenth_more_than_the_loop(tokens, gain):
    block = Counted(make_block(gain, seed=1, dtype=torch.float32), PROJ_DIM)
    collected = collect_context_cache(block, make_stream(tokens, dtype=torch.float32))
    assert block.cost <= 1.1 * tokens
    assert collected.sequential or block.cost < tokens


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 1.0])
def test_stretches_that_probes_miss_cost_at_most_a_tenth_more(share):
    tokens = 20_000
    embeds = long_memory_stream(tokens, 0, 0)
    # Probes read 32 tokens at each of 64 places, 312 tokens apart: what stands between them forgets nothing.
    hidden = torch.arange(tokens) % 312 >= 312 - 270 * share
    embeds[hidden] = 0
    embeds[hidden, 0] = 100
    block = Counted(DriftsApart(), 4)
    collect_context_cache(block, embeds, tolerance=1e-9)
    assert block.cost <= 1.1 * tokens


def test_the_loop_gives_the_bits_of_a_call_by_hand():
    model, ids = make_model().float(), torch.randint(512, (60,), generator=torch.Generator().manual_seed(0))
    contexts = collect_context_cache_sequential(model, ids, "cpu", chunk_size=25)
    assert torch.equal(contexts, literal_loop(model.projection, model.normed_embeddings(ids)))


def test_without_a_norm_contexts_may_grow_without_bound():
    block, embeds = make_block(3.0), make_stream(1200)
    block.layer.norm = cast(nn.LayerNorm, nn.Identity())
    collected, expected = collect_context_cache(block, embeds), literal_loop(block, embeds)
    assert expected.abs().max() > 1e100
    assert torch.equal(collected.contexts, expected)


class FadesExceptWhereTold(nn.Module):
    """Forgets quickly, but keeps every disturbance over tokens whose first value is large."""

    proj_dim = 4

    def forward(self, prev: Tensor, embeds: Tensor) -> Tensor:
        keep = torch.where(embeds[:, :1] > 50, 1.0, 0.5).to(prev.dtype)
        return keep * prev + embeds[:, :4]


def long_memory_stream(tokens: int, first: int, last: int) -> Tensor:
    embeds = torch.randn(tokens, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    embeds[first:last] = 0
    embeds[first:last, 0] = 100
    return embeds


@pytest.mark.parametrize(("first", "last"), [(1010, 1200), (1000, 2900), (0, 2999)])
def test_stretches_that_forget_nothing_are_found_and_run_again(first, last):
    embeds = long_memory_stream(3000, first, last)
    block = FadesExceptWhereTold()
    collected = collect_context_cache(block, embeds, tolerance=1e-9)
    context, expected = torch.zeros(1, 4, dtype=torch.float64), []
    for position in range(len(embeds)):
        context = block(context, embeds[position : position + 1])
        expected.append(context[0])
    assert (collected.contexts - torch.stack(expected)).abs().max() < 1e-6  # values up to 1e5
    assert collected.rounds > 1 or collected.sequential


@pytest.mark.parametrize("tokens", [1900, 900])
def test_a_context_that_is_kept_over_many_segments_is_carried_to_their_end(tokens):
    """Less of the stream than the probes look at keeps what it has, so that every round settles one segment more."""
    torch.manual_seed(0)
    block = DiverseProjection(PROJ_DIM, PROJ_DIM).requires_grad_(False)
    weight = block.layer.linear.weight
    weight[:, :PROJ_DIM].normal_(std=0.1)
    weight[:, PROJ_DIM:].normal_(std=1.0)
    weight[:, PROJ_DIM] = -30.0
    embeds = torch.randn(20_000, PROJ_DIM)
    embeds[:, 0] = 0
    embeds[9000 : 9000 + tokens] = 0
    embeds[9000 : 9000 + tokens, 0] = 5
    collected = collect_context_cache(block, embeds)
    context, expected = torch.zeros(1, PROJ_DIM), []
    for row in embeds.split(1):
        context = block(context, row)
        expected.append(context)
    assert (collected.contexts - torch.cat(expected)).abs().max() < 1e-4
    assert collected.residual <= 1e-5


def test_runs_a_short_stretch_again_without_falling_back():
    collected = collect_context_cache(FadesExceptWhereTold(), long_memory_stream(3000, 1010, 1200), tolerance=1e-9)
    assert not collected.sequential
    assert 2 <= collected.rounds <= 5


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 500), st.sampled_from([1.0, 30.0]))
def test_state_is_carried_over_chunks(chunk_size, gain):
    block, embeds = make_block(gain, seed=1), make_stream(500)
    collected = collect_context_cache(block, embeds, tolerance=1e-11, chunk_size=chunk_size)
    assert (collected.contexts - literal_loop(block, embeds)).abs().max() < 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.sampled_from([1.0, 30.0]), st.integers(0, 5))
def test_after_k_plain_sweeps_the_first_k_states_are_exact(sweeps, gain, seed):
    block, embeds = make_block(gain, seed), make_stream(60, seed)
    exact = literal_loop(block, embeds)
    contexts = torch.randn_like(exact)
    for _ in range(sweeps):
        contexts = block(torch.cat([torch.zeros_like(contexts[:1]), contexts[:-1]]), embeds)
    torch.testing.assert_close(contexts[:sweeps], exact[:sweeps], rtol=0, atol=1e-9)


def test_float32_stays_within_the_tolerance_of_the_loop():
    block, embeds = make_block(dtype=torch.float32), make_stream(3000, dtype=torch.float32)
    collected = collect_context_cache(block, embeds)
    assert collected.contexts.dtype == torch.float32
    assert (collected.contexts - literal_loop(block, embeds)).abs().max() < 2e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["cascade", "context-kv"])
def test_half_precision_collects_what_its_loop_collects(method, dtype):
    torch.manual_seed(0)
    model = cast(RecurrentModel, models.create(method, "tiny").to(dtype))
    ids = torch.randint(512, (700,), generator=torch.Generator().manual_seed(0))
    collected = collect_model_contexts(model, ids, "cpu")
    expected = collect_context_cache_sequential_multiblock(model, ids, "cpu", len(model.context_blocks))
    assert collected.contexts.dtype == dtype
    # Rounding to half precision is kept small by the recurrence that contracts, and is the same by the loop.
    assert (collected.contexts - expected).abs().max() <= 16 * torch.finfo(dtype).eps


def test_contexts_go_to_a_memory_mapped_file(tmp_path: Path):
    block, embeds = make_block(), make_stream(900)
    output = tmp_path / "folder" / "contexts.npy"
    collected = collect_context_cache(block, embeds, output=output, chunk_size=400)
    in_memory = collect_context_cache(block, embeds, chunk_size=400)
    assert np.array_equal(np.load(output, allow_pickle=False), in_memory.contexts.numpy())
    assert torch.equal(collected.contexts, in_memory.contexts)
    assert [path.name for path in output.parent.iterdir()] == ["contexts.npy"]


def test_a_killed_collection_leaves_no_file(tmp_path: Path):
    class Breaks(FadesExceptWhereTold):
        def forward(self, prev: Tensor, embeds: Tensor) -> Tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_context_cache(Breaks(), make_stream(100), output=tmp_path / "contexts.npy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("chunk_size", [90, 10_000])
@pytest.mark.parametrize("bad", [0, 89, 90, 250])
def test_a_context_that_is_not_finite_is_refused_where_it_is(bad, chunk_size, value, tmp_path: Path, monkeypatch):
    model, ids = make_model(blocks=2), torch.arange(300)  # each token once
    embeds = model.normed_embeddings(ids)
    embeds[bad, 3] = value
    monkeypatch.setattr(model, "normed_embeddings", lambda read: embeds[read])
    output = tmp_path / "contexts.npy"
    block = cast(DiverseProjection, model.context_blocks[0])
    for collect in (
        lambda: collect_context_cache(block, embeds, chunk_size=chunk_size, output=output),
        lambda: collect_model_contexts(model, ids, "cpu", chunk_size=chunk_size, output=output),
        lambda: collect_context_cache_sequential_multiblock(model, ids, "cpu", 2, chunk_size),
    ):
        with pytest.raises(ValueError, match=f"the context after token {bad} .* is not finite"):
            collect()
    assert list(tmp_path.iterdir()) == []


def test_a_recurrence_that_overflows_is_refused():
    block = make_block(3.0, dtype=torch.float32)
    block.layer.norm = cast(nn.LayerNorm, nn.Identity())
    with pytest.raises(ValueError, match="is not finite"):
        collect_context_cache(block, make_stream(500, dtype=torch.float32))


class NeverRun(FadesExceptWhereTold):
    def forward(self, prev: Tensor, embeds: Tensor) -> Tensor:
        pytest.fail("work was begun")


def test_a_place_where_no_file_can_be_is_found_before_any_work(tmp_path: Path):
    (tmp_path / "file").touch()
    for output in (tmp_path, tmp_path / "file" / "contexts.npy"):
        with pytest.raises(UnwritableError, match="cannot be written"):
            collect_context_cache(NeverRun(), make_stream(100), output=output)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("chunk_size", [7, 64, 10_000])
def test_sequential_reference_equals_the_literal_loop(chunk_size):
    model, ids = make_model(), torch.randint(512, (150,), generator=torch.Generator().manual_seed(0))
    expected = literal_loop(model.projection, model.normed_embeddings(ids))
    contexts = collect_context_cache_sequential(model, ids, torch.device("cpu"), chunk_size)
    assert contexts.shape == (150, model.projection.proj_dim)
    torch.testing.assert_close(contexts, expected, rtol=0, atol=1e-12)


def test_blocks_stand_side_by_side():
    model, ids = make_model(blocks=2), torch.randint(512, (400,), generator=torch.Generator().manual_seed(0))
    embeds = model.normed_embeddings(ids)
    expected = torch.cat([literal_loop(cast(DiverseProjection, b), embeds) for b in model.context_blocks], dim=-1)
    reference = collect_context_cache_sequential_multiblock(model, ids, "cpu", num_blocks=2, chunk_size=90)
    torch.testing.assert_close(reference, expected, rtol=0, atol=1e-12)
    collected = collect_model_contexts(model, ids, "cpu", tolerance=1e-11, chunk_size=250)
    torch.testing.assert_close(collected.contexts, expected, rtol=0, atol=1e-9)
    one = collect_context_cache_sequential_multiblock(model, ids, "cpu", num_blocks=1)
    assert one.shape[1] == model.context_blocks[0].proj_dim


def test_collection_leaves_the_model_as_it_was():
    model, ids = make_model(), torch.arange(100)
    before = copy.deepcopy(model.state_dict())
    contexts = collect_model_contexts(model, ids, "cpu").contexts
    assert not contexts.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_errors_at_the_door():
    model, block = make_model(), make_block()
    with pytest.raises(ValueError, match="num_blocks=2, but"):
        collect_context_cache_sequential_multiblock(model, torch.arange(5), "cpu", num_blocks=2)
    with pytest.raises(ValueError, match="one stream"):
        collect_context_cache_sequential(model, torch.zeros(2, 5, dtype=torch.long), "cpu")
    with pytest.raises(ValueError, match=r"\(T, E\)"):
        collect_context_cache(block, torch.zeros(0, EMBED_DIM))
    with pytest.raises(ValueError, match="tolerance"):
        collect_context_cache(block, make_stream(5), tolerance=-1)
    with pytest.raises(ValueError, match="real numbers"):
        collect_context_cache(block, torch.zeros(5, EMBED_DIM, dtype=torch.long))
    with pytest.raises(ValueError, match="width 0"):
        collect_context_cache(DiverseProjection(EMBED_DIM, 0), make_stream(5))
    for ids, said in (([0.5, 1.0], "whole numbers"), ([0, 10**6], "from 0 to 511"), ([-1, 3], "from 0 to 511")):
        for collect in (collect_context_cache_sequential, collect_model_contexts):
            with pytest.raises(ValueError, match=said):
                collect(model, torch.tensor(ids), "cpu")
    with pytest.raises(ValueError, match="chunk_size"):
        collect_context_cache(block, make_stream(5), chunk_size=0)
    with pytest.raises(ValueError, match="no context block"):
        collect_model_contexts(cast(RecurrentModel, models.create("pythia", "tiny")), torch.arange(5), "cpu")


@pytest.mark.parametrize("chunk_size", [0, -1, 2.5, 2.0, True, "5", None])
def test_a_chunk_that_is_no_whole_number_is_refused(chunk_size):
    model, ids = make_model(), torch.arange(5)
    for collect in (
        lambda: collect_context_cache(make_block(), make_stream(5), chunk_size=chunk_size),
        lambda: collect_model_contexts(model, ids, "cpu", chunk_size=chunk_size),
        lambda: collect_context_cache_sequential(model, ids, "cpu", chunk_size),
    ):
        with pytest.raises(ValueError, match=r"chunk_size=.* must be a whole number of at least 1"):
            collect()


@pytest.mark.parametrize("device", ["bogus", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused_before_the_model_is_moved(device):
    model = make_model()
    for collect in (collect_model_contexts, collect_context_cache_sequential):
        with pytest.raises(ValueError, match=f"device {device} cannot be used here"):
            collect(model, torch.arange(5), device)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("width", [1, EMBED_DIM - 1, EMBED_DIM + 1])
def test_embeddings_of_another_width_are_refused(width):
    with pytest.raises(ValueError, match=f"embeds are {width} wide, but this recurrence reads a width of {EMBED_DIM}"):
        collect_context_cache(make_block(), torch.zeros(5, width, dtype=torch.float64))


def test_an_output_may_be_a_text(tmp_path: Path):
    collected = collect_context_cache(make_block(), make_stream(50), output=str(tmp_path / "contexts.npy"))
    assert np.array_equal(np.load(tmp_path / "contexts.npy", allow_pickle=False), collected.contexts.numpy())

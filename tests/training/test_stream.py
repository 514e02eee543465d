"""Training on one stream: the contexts that a model reads, what is trained, and what is not."""

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from newllm.config.groups import StreamParameters
from newllm.data import TextData, TokenWindows
from newllm.evaluation.perplexity import evaluate
from newllm.models import create
from newllm.models.methods import cascade
from newllm.models.methods.cascade import CascadeContextLLM
from newllm.models.methods.context_kv import ContextKVAttentionLLM
from newllm.models.projection import unroll_side_by_side
from newllm.recurrence.training import train_projections
from newllm.training import stream as stream_training
from newllm.training.callbacks import StopEarly
from newllm.training.embeddings import EmbeddingError, adopt_embedding, embedding_digest, read_embedding
from newllm.training.stream import (
    Stretches,
    collect_training_data,
    contexts_are_fixed,
    estimate_stream_seconds,
    train_on_stream,
)
from tests.training.test_embeddings import TOKENIZER, VOCABULARY

CPU = torch.device("cpu")
LENGTH = 12


def windows(count: int, seed: int) -> TokenWindows:
    """Ids of which most follow from the two before."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, 40, count * LENGTH + 1)
    for place in range(2, len(ids)):
        if generator.random() < 0.8:
            ids[place] = (3 * ids[place - 1] + ids[place - 2]) % 40
    return TokenWindows(ids.astype(np.uint16), LENGTH, np.ones(VOCABULARY, dtype=np.int64))


@pytest.fixture(scope="module")
def data() -> TextData:
    return TextData(windows(40, 0), windows(6, 1), windows(6, 2), {"source": "test"}, TOKENIZER)


def settings(**changes: Any) -> StreamParameters:
    given = {"epochs": 3, "patience": 3, "stream_tokens": 50, "stream_lr": 0.01, "stream_max_iterations": 4}
    return StreamParameters(**{**given, **changes})


@pytest.fixture
def embedding(tmp_path: Path) -> Path:
    file = tmp_path / "embedding.safetensors"
    save_file({"wte.weight": torch.randn(VOCABULARY, 64, generator=torch.Generator().manual_seed(5))}, file)
    return file


def model(embedding: Path | None = None, frozen: bool = True, **overrides: Any) -> CascadeContextLLM:
    """A cascade with frozen context blocks."""
    torch.manual_seed(0)
    made = create("cascade", "tiny", vocab_size=VOCABULARY, context_dim=16, **overrides)
    assert isinstance(made, CascadeContextLLM)
    if embedding is not None:
        adopt_embedding(made, read_embedding(str(embedding), for_head=True), TOKENIZER)
    made.freeze_context_blocks()
    made.embed_in.requires_grad_(not frozen)
    return made


def stream_of(data: TextData) -> torch.Tensor:
    return torch.from_numpy(data.train.token_ids.astype(np.int64))


@given(
    tokens=st.integers(2, 40),
    length=st.integers(1, 45),
    previous=st.booleans(),
)
def test_stretches_hold_each_prediction_once_with_what_the_model_reads(tokens, length, previous):
    ids = torch.arange(tokens)
    after = torch.arange(1.0, tokens + 1)[:, None].expand(-1, 2)
    stretches = Stretches(ids, after, length, previous)
    predicted = torch.cat([stretches[index]["labels"][1:] for index in range(len(stretches))])
    assert torch.equal(predicted, ids[1:])
    for index in range(len(stretches)):
        stretch = stretches[index]
        # Token i is number i, the context after it is i + 1, so the one before it is i, and 0 at the start.
        expected = stretch["input_ids"] + (not previous)
        assert torch.equal(stretch["contexts"], expected[:, None].expand(-1, 2).float())
        assert len(stretch["input_ids"]) <= length + 1
    with pytest.raises(IndexError):
        stretches[len(stretches)]


@torch.no_grad()
@pytest.mark.parametrize("token_context", ["previous", "current"])
def test_collected_contexts_give_the_losses_of_the_models_own_recurrences(tmp_path, data, token_context):
    """Training stretches as one carried stream; held-out windows each from a zero state."""
    cascade = model(token_context=token_context, num_blocks=3).eval()
    collected = collect_training_data(
        cascade, data, StreamParameters(epochs=1, stream_tokens=50), tmp_path / "contexts.npy", CPU
    )
    losses, counts = [], []
    for index in range(len(collected.train)):
        batch = {name: value[None] for name, value in collected.train[index].items()}
        losses.append(cascade(**batch).loss.item())
        counts.append(batch["labels"].shape[1] - 1)
    stream = stream_of(data)[None]
    expected = cascade(stream, labels=stream).loss.item()
    assert np.average(losses, weights=counts) == pytest.approx(expected, abs=1e-5)
    for index in range(len(collected.validation)):
        batch = {name: value[None] for name, value in collected.validation[index].items()}
        ids = batch["input_ids"]
        torch.testing.assert_close(cascade(**batch).loss, cascade(ids, labels=ids).loss)


@pytest.mark.parametrize("tied", [True, False])
def test_with_a_frozen_embedding_only_the_token_block_and_an_own_head_learn(tmp_path, data, embedding, tied):
    cascade = model(embedding, tie_word_embeddings=tied)
    before = {name: value.clone() for name, value in cascade.named_parameters()}
    result = train_on_stream(cascade, data, settings(), tmp_path / "training", seed=0, device=CPU)
    changed = {name for name, value in cascade.named_parameters() if not torch.equal(value, before[name])}
    expected = {name for name in before if name.startswith("token_block.")}
    assert changed == expected | (set() if tied else {"embed_out.weight"})
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] - 0.1
    assert not (tmp_path / "training" / stream_training.CONTEXTS).exists()
    # What early stopping judges is what the leaderboard shows: windows from a zero state.
    report = evaluate(cascade, data.validation, device=CPU)
    assert min(row["validation_loss"] for row in result.history) == pytest.approx(report.loss, abs=1e-4)


def test_a_trained_embedding_learns_through_the_frozen_recurrences(tmp_path, data):
    cascade = model(frozen=False)
    before = {name: value.clone() for name, value in cascade.named_parameters()}
    result = train_on_stream(cascade, data, settings(epochs=1), tmp_path, seed=0, device=CPU)
    changed = {name for name, value in cascade.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith(("token_block.", "embed_in."))}
    assert not (tmp_path / stream_training.CONTEXTS).exists()
    report = evaluate(cascade, data.validation, device=CPU)
    assert min(row["validation_loss"] for row in result.history) == pytest.approx(report.loss, abs=1e-4)


def test_a_step_is_as_many_tokens_as_asked(tmp_path, data, embedding, monkeypatch):
    steps: list[tuple[int, float]] = []

    def note(model, data, parameters, folder, **others):
        batch = [data.train[index]["labels"][1:] for index in range(parameters.batch_size)]
        steps.append((sum(map(len, batch)), parameters.lr))

    monkeypatch.setattr(stream_training, "train", note)
    for frozen in (True, False):
        train_on_stream(model(embedding, frozen=frozen), data, settings(), tmp_path, seed=0, device=CPU)
    assert steps == [(50, 0.01), (4 * LENGTH, 0.01)]


@pytest.mark.parametrize("frozen", [True, False])
def test_the_time_is_estimated_by_the_steps_that_are_trained(data, embedding, frozen, monkeypatch):
    """Frozen contexts are read, not computed, in a stretch a step; others unroll in as many windows."""
    taker = model(embedding, frozen=frozen)
    steps: list[torch.Size] = []
    unrolled: list[int] = []
    forward, unroll = CascadeContextLLM.forward, cascade.unroll_side_by_side

    def watched_forward(self, input_ids, **others):
        steps.append(input_ids.shape)
        return forward(self, input_ids, **others)

    def watched_unroll(blocks, embeds, *others):
        unrolled.append(embeds.shape[1])
        return unroll(blocks, embeds, *others)

    monkeypatch.setattr(CascadeContextLLM, "forward", watched_forward)
    monkeypatch.setattr(cascade, "unroll_side_by_side", watched_unroll)
    # A clock by which every step takes a second.
    monkeypatch.setattr(time, "perf_counter", itertools.count().__next__)
    seconds = estimate_stream_seconds(taker, data, settings(), device=CPU)
    assert seconds > 0
    assert set(steps) == ({(1, 51)} if frozen else {(4, LENGTH + 1)})
    assert bool(unrolled) is not frozen
    longer = estimate_stream_seconds(taker, data, settings(epochs=300), device=CPU)
    assert longer == pytest.approx(300 / settings().epochs * seconds)


def test_random_embeddings_are_refused_where_they_would_be_learnt_by_heart(tmp_path, data):
    with pytest.raises(EmbeddingError, match="must come from a trained model"):
        train_on_stream(model(), data, settings(), tmp_path, seed=0, device=CPU)
    assert not list(tmp_path.iterdir())
    train_on_stream(model(tie_word_embeddings=False), data, settings(epochs=1), tmp_path / "untied", seed=0, device=CPU)


def test_a_stopped_training_ends_as_an_uninterrupted_one(tmp_path, data, embedding, monkeypatch):
    straight = model(embedding)
    expected = train_on_stream(straight, data, settings(), tmp_path / "straight", seed=0, device=CPU)

    class StoppedError(Exception):
        pass

    def stop(self, args, state, control, **others):
        if state.epoch == 2:
            raise StoppedError

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(StopEarly, "on_evaluate", stop)
        train_on_stream(model(embedding), data, settings(), tmp_path / "stopped", seed=0, device=CPU)
    resumed = model(embedding)
    result = train_on_stream(resumed, data, settings(), tmp_path / "stopped", seed=0, device=CPU)
    assert [row["validation_loss"] for row in result.history] == [row["validation_loss"] for row in expected.history]
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, straight.state_dict()[name])


def test_contexts_are_fixed_only_where_all_that_makes_them_is_frozen():
    assert contexts_are_fixed(model())
    assert not contexts_are_fixed(model(frozen=False))
    for part in ("embed_norm", "context_blocks"):
        cascade = model()
        getattr(cascade, part).requires_grad_(True)
        assert not contexts_are_fixed(cascade)


@pytest.mark.parametrize("data_split", ["disjoint", "full"])
def test_each_block_learns_from_its_part_of_the_data(data, embedding, data_split):
    """Other tokens in the second half change what the second block learns; the first one's with full data only."""
    stream = stream_of(data)
    other = stream.clone()
    other[len(stream) // 2 :] = (other[len(stream) // 2 :] + 1) % 40
    trained = []
    for tokens in (stream, other):
        cascade = model(embedding)
        parameters = settings().for_context_blocks()
        result = train_projections(cascade, tokens, parameters, data_split=data_split, device="cpu", seed=0)
        assert {row["block"] for row in result.history} == {0, 1}
        assert max(row["iteration"] for row in result.history) == 3
        trained.append([block.layer.linear.weight for block in cascade.context_blocks])
        assert embedding_digest(cascade) == cascade.config.embedding_digest
    same = [torch.equal(one, another) for one, another in zip(*trained, strict=True)]
    assert same == [data_split == "disjoint", False]


def test_the_streams_own_rates_replace_those_of_the_other_models():
    parameters = StreamParameters(epochs=7)
    blocks, reader = parameters.for_context_blocks(), parameters.for_reader(3)
    assert (blocks.projection_lr, blocks.proj_noise, blocks.max_iterations) == (0.002, 0.1, 60)
    assert blocks.convergence_target == 0.9
    assert (reader.lr, reader.batch_size, reader.epochs, reader.clip, reader.patience) == (0.001, 3, 7, 1.0, 1)


def context_kv(embedding: Path | None = None, **overrides: Any) -> ContextKVAttentionLLM:
    """A context-kv model with frozen context blocks."""
    torch.manual_seed(0)
    made = create("context-kv", "tiny", vocab_size=VOCABULARY, context_dims=[12, 8], **overrides)
    assert isinstance(made, ContextKVAttentionLLM)
    if embedding is not None:
        adopt_embedding(made, read_embedding(str(embedding), for_head=True), TOKENIZER)
    made.freeze_context_blocks()
    return made


def test_context_kv_trains_its_attention_on_contexts_that_run_on(tmp_path, data, embedding):
    model = context_kv(embedding)
    before = {name: value.clone() for name, value in model.named_parameters()}
    result = train_on_stream(model, data, settings(stream_lr=0.003), tmp_path / "training", seed=0, device=CPU)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"attention", "attention_norm", "mlp", "mlp_norm"}
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] - 0.1
    report = evaluate(model, data.validation, device=CPU)
    assert min(row["validation_loss"] for row in result.history) == pytest.approx(report.loss, abs=1e-4)


@torch.no_grad()
def test_a_stretch_starts_with_contexts_of_the_whole_stream_and_chunks_of_its_own(tmp_path, data):
    model = context_kv().eval()
    collected = collect_training_data(
        model, data, StreamParameters(epochs=1, stream_tokens=50), tmp_path / "contexts.npy", CPU
    )
    stream = stream_of(data)
    after = unroll_side_by_side(model.context_blocks, model.normed_embeddings(stream[None]))[0]
    stretch = collected.train[2]
    torch.testing.assert_close(stretch["contexts"], after[100:151], atol=2e-5, rtol=0)
    assert torch.equal(stretch["input_ids"], stream[100:151])


def test_stretches_within_a_chunk_are_refused(tmp_path, data, embedding):
    """Stretches of 50 tokens hold five chunks of 10, and none beyond; windows are as long as the data's."""
    windows = context_kv(freeze_embedding=False)
    for model, name, chunk_size in ((context_kv(embedding), "stream_tokens", 10), (windows, "seq_length", 50)):
        model.config.chunk_size = chunk_size
        with pytest.raises(ValueError, match=rf"{name}=.* must be larger than 50 for chunks of {chunk_size} tokens"):
            train_on_stream(model, data, settings(), tmp_path, seed=0, device=CPU)

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from newllm import models
from newllm.config.groups import ProjectionParameters
from newllm.files import DamagedFileError
from newllm.models.projection import DiverseProjection
from newllm.models.recurrent import RecurrentModel
from newllm.recurrence import passes
from newllm.recurrence.checkpoint import ProjectionMismatchError, load_projection, save_projection
from newllm.recurrence.collection import collect_context_cache_sequential
from newllm.recurrence.convergence import effective_rank
from newllm.recurrence.training import ProjectionResult, train_projection, train_projections


def settings(**changes: Any) -> ProjectionParameters:
    return ProjectionParameters(**({"max_iterations": 6, "projection_batch_size": 90} | changes))


def make_model(seed: int = 0, blocks: int = 1, **overrides: Any) -> RecurrentModel:
    torch.manual_seed(seed)
    model = models.create("dproj", "tiny", **overrides).double()
    assert isinstance(model, RecurrentModel)
    width = model.projection.proj_dim
    for _ in range(blocks - 1):
        model.context_blocks.append(DiverseProjection(64, width).double())
    return model


def make_stream(tokens: int = 200) -> Tensor:
    return torch.randint(512, (tokens,), generator=torch.Generator().manual_seed(1)) ** 2 % 512


def train(model: RecurrentModel, parameters: ProjectionParameters, seed: int = 3, **more: Any) -> ProjectionResult:
    return train_projection(model, make_stream(), parameters, device="cpu", seed=seed, **more)


def reference(model: RecurrentModel, parameters: ProjectionParameters, seed: int) -> list[dict[str, float]]:
    """Train with no thought of memory or speed: one mini-batch after the other, cut from full-length arrays."""
    block, generator = model.projection, torch.Generator().manual_seed(seed)
    embeds = model.normed_embeddings(make_stream()).detach()
    tokens, size = len(embeds), parameters.projection_batch_size
    previous = 0.01 * torch.randn(tokens, block.proj_dim, generator=generator, dtype=torch.float64)
    optimizer = torch.optim.Adam(block.parameters(), lr=parameters.projection_lr)
    rows: list[dict[str, float]] = []
    for _ in range(parameters.max_iterations - 1):
        shifted = torch.cat([torch.zeros(1, block.proj_dim, dtype=torch.float64), previous[:-1]])
        parts = []
        for lo in range(0, tokens, size):
            batch = shifted[lo : lo + size]
            noise = torch.randn(batch.shape, generator=generator, dtype=torch.float64)
            parts.append(block(batch + parameters.proj_noise * noise, embeds[lo : lo + size]))
        losses = [-(x - x.mean(0)).norm() / len(x) + parameters.centroid_weight * x.mean(0).norm() ** 2 for x in parts]
        loss = torch.stack(losses).sum() / len(parts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(block.parameters(), parameters.projection_clip)
        optimizer.step()
        current = torch.cat(parts).detach()
        moved = ((current - previous) ** 2).mean(1)
        rate = (moved < parameters.convergence_threshold).double().mean().item()
        rows.append({"loss": loss.item(), "convergence_rate": rate, "effective_rank": effective_rank(current)})
        previous = current
        if rate >= parameters.convergence_target:
            break
    return rows


@pytest.mark.parametrize("changes", [{}, {"projection_batch_size": 64, "proj_noise": 0.3, "projection_clip": 1e-3}])
def test_trains_as_specified(changes):
    model, expected = make_model(), make_model()
    result, rows = train(model, settings(**changes)), reference(expected, settings(**changes), seed=3)
    assert len(result.history) == len(rows) == 5
    for row, wanted in zip(result.history, rows, strict=True):
        assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-9)
        assert row["loss"] == pytest.approx(row["distance_term"] + 0.1 * row["centroid_term"], rel=1e-12)
    for name, value in expected.projection.state_dict().items():
        torch.testing.assert_close(model.projection.state_dict()[name], value, rtol=0, atol=1e-9)


def test_only_the_projection_changes():
    model = make_model()
    model.freeze_context_blocks()
    before = copy.deepcopy(model.state_dict())
    train(model, settings())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("context_blocks.0.layer")}
    assert not any(parameter.requires_grad for parameter in model.projection.parameters())  # frozen as it came
    assert all(parameter.grad is None for parameter in model.parameters())


def test_stops_at_the_target_and_at_the_limit():
    reached = train(make_model(), settings(convergence_threshold=100.0, max_iterations=50))
    assert reached.converged and len(reached.history) == 1
    stopped = train(make_model(), settings(convergence_threshold=1e-12, max_iterations=4))
    assert not stopped.converged and [row["iteration"] for row in stopped.history] == [1, 2, 3]
    assert stopped.convergence_rate == stopped.history[-1]["convergence_rate"] == 0
    assert stopped.effective_rank == stopped.history[-1]["effective_rank"]


def test_loss_falls_and_contexts_converge():
    # Wide enough to contract: in narrow blocks the tokens weigh too little.
    torch.manual_seed(0)
    model = models.create("dproj", "tiny", embedding_size=256, proj_dim=64)
    result = train(model, settings(max_iterations=40, projection_batch_size=200))
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert result.history[0]["convergence_rate"] < 0.05 < 0.5 < result.convergence_rate


def test_the_seed_decides_the_noise_and_nothing_else_does():
    torch.manual_seed(11)
    first = train(make_model(), settings())
    torch.manual_seed(12)
    assert train(make_model(), settings()).history == first.history
    assert train(make_model(), settings(), seed=4).history != first.history


class KilledError(Exception):
    pass


@pytest.mark.parametrize("killed_after", [3, 10, 13])
def test_a_killed_training_ends_with_the_same_numbers(tmp_path, monkeypatch, killed_after):
    parameters = settings(max_iterations=18, convergence_threshold=1e-9)
    whole = make_model()
    expected = train(whole, parameters)
    file = tmp_path / "run" / "resume.safetensors"
    made = []

    def rank_until_killed(x: Tensor) -> float:
        made.append(1)
        if len(made) > killed_after:
            raise KilledError
        return effective_rank(x)

    with monkeypatch.context() as patch:
        patch.setattr(passes, "effective_rank", rank_until_killed)
        with pytest.raises(KilledError):
            train(make_model(), parameters, resume_file=file)
    assert file.exists() == (killed_after >= 10)
    made.clear()
    monkeypatch.setattr(passes, "effective_rank", lambda x: (made.append(1), effective_rank(x))[1])
    resumed = make_model()
    result = train(resumed, parameters, resume_file=file)
    assert result == expected
    assert len(made) == (17 if killed_after < 10 else 7)  # what was done is not done again
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)
    assert not file.exists()


def test_blocks_that_were_trained_before_a_kill_are_not_trained_again(tmp_path, monkeypatch):
    parameters = settings(max_iterations=6, convergence_threshold=1e-9)

    def all_blocks(folder: Path | None = None) -> tuple[RecurrentModel, ProjectionResult, int]:
        model = make_model(blocks=3)
        made: list[int] = []

        def counted(x: Tensor) -> float:
            made.append(1)
            return effective_rank(x)

        monkeypatch.setattr(passes, "effective_rank", counted)
        result = train_projections(model, make_stream(), parameters, device="cpu", seed=3, resume_folder=folder)
        return model, result, len(made)

    whole, expected, _ = all_blocks()
    made: list[int] = []

    def rank_until_killed(x: Tensor) -> float:
        made.append(1)
        if len(made) > 12:
            raise KilledError
        return effective_rank(x)

    with monkeypatch.context() as patch:
        patch.setattr(passes, "effective_rank", rank_until_killed)
        with pytest.raises(KilledError):
            train_projections(
                make_model(blocks=3), make_stream(), parameters, device="cpu", seed=3, resume_folder=tmp_path
            )
    resumed, result, made_then = all_blocks(tmp_path)
    assert result == expected
    assert made_then == 5  # of the last block alone
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)
    assert not list(tmp_path.iterdir())


def test_a_resume_file_of_another_training_is_not_used(tmp_path, caplog):
    file = tmp_path / "resume.safetensors"
    parameters = settings(max_iterations=11, convergence_threshold=1e-9)
    saved = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: saved.append(self))
        train(make_model(), parameters, resume_file=file)
    assert file.exists()
    expected = train(make_model(), parameters, seed=9)
    assert train(make_model(), parameters, seed=9, resume_file=file) == expected
    assert "another projection training" in caplog.text


def peak_memory(tokens: int) -> int:
    """Largest sum of bytes that torch held at a time during a training, the model aside."""
    model = make_model()
    stream = make_stream(tokens)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        train_projection(model, stream, settings(max_iterations=3, projection_batch_size=500), device="cpu", seed=0)
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def test_only_embeddings_and_contexts_grow_with_the_stream(monkeypatch):
    # The spectrum reads rows up to a fixed number: few here, so that it does not hide what is measured.
    monkeypatch.setattr("newllm.recurrence.convergence.EFFECTIVE_RANK_ROWS", 500)
    width = 64 + make_model().projection.proj_dim
    grown = peak_memory(16_000) - peak_memory(4_000)
    assert grown < 1.05 * 12_000 * width * 8


def test_device_sees_one_mini_batch_at_a_time():
    model, rows = make_model(), []
    model.projection.register_forward_hook(lambda module, inputs, output: rows.append([len(x) for x in inputs]))
    model.embed_norm.register_forward_hook(lambda module, inputs, output: rows.append([len(inputs[0])]))
    train(model, settings())
    assert max(max(row) for row in rows) == 90


def test_blocks_train_on_their_parts():
    parameters, stream = settings(max_iterations=4), make_stream(401)
    together = make_model(blocks=2)
    alone = copy.deepcopy(together)
    result = train_projections(together, stream, parameters, device="cpu", seed=5)
    first = train_projection(alone, stream[:200], parameters, block=0, device="cpu", seed=5)
    second = train_projection(alone, stream[200:], parameters, block=1, device="cpu", seed=6)
    assert result.history == first.history + second.history
    assert result.effective_rank == min(first.effective_rank, second.effective_rank)
    for name, value in alone.state_dict().items():
        assert torch.equal(together.state_dict()[name], value)
    full = train_projections(make_model(blocks=2), stream, parameters, data_split="full", device="cpu", seed=5)
    assert full.history[0] != result.history[0]


def test_checkpoint_gives_the_same_contexts(tmp_path):
    model = make_model()
    result = train(model, settings())
    save_projection(tmp_path, model, result, "tokenizer-1")
    other = make_model()
    torch.nn.init.normal_(other.projection.layer.linear.weight)
    torch.nn.init.normal_(other.embed_norm.weight)
    assert load_projection(tmp_path, other, "tokenizer-1") == result
    contexts = [collect_context_cache_sequential(m, make_stream(), "cpu") for m in (model, other)]
    assert torch.equal(*contexts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["projection.json", "projection.safetensors"]


def test_what_does_not_match_is_refused_with_the_reason(tmp_path):
    model = make_model()
    save_projection(tmp_path, model, train(model, settings()), "tokenizer-1")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ProjectionMismatchError, match="tokenizer-2"):
        load_projection(tmp_path, model, "tokenizer-2")
    with pytest.raises(ProjectionMismatchError, match=r"context_dims is \[40\] .* \[48\]"):
        load_projection(tmp_path, make_model(proj_dim=48), "tokenizer-1")
    with pytest.raises(ProjectionMismatchError, match=r"vocab_size is 512 .* 600"):
        load_projection(tmp_path, make_model(vocab_size=600), "tokenizer-1")
    with pytest.raises(ProjectionMismatchError, match="embedding is not the one"):
        load_projection(tmp_path, make_model(seed=1), "tokenizer-1")
    with pytest.raises(FileNotFoundError, match="no complete projection checkpoint"):
        load_projection(tmp_path / "elsewhere", model, "tokenizer-1")
    weights = tmp_path / "projection.safetensors"
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(DamagedFileError, match=r"projection\.safetensors is damaged"):
        load_projection(tmp_path, model, "tokenizer-1")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_checkpoint_is_json_and_safetensors_with_everything(tmp_path):
    model = make_model()
    result = train(model, settings())
    save_projection(tmp_path, model, result, "tokenizer-1")
    description = json.loads((tmp_path / "projection.json").read_text())
    assert description["history"] == result.history and description["tokenizer_identity"] == "tokenizer-1"
    tensors = load_file(tmp_path / "projection.safetensors")
    assert torch.equal(tensors["embedding.weight"], model.get_input_embeddings().weight)
    assert {"embed_norm.weight", "embed_norm.bias", "context_blocks.0.layer.linear.weight"} < set(tensors)


def test_errors_at_the_door():
    with pytest.raises(ValueError, match="block=1"):
        train(make_model(), settings(), block=1)
    with pytest.raises(ValueError, match="one stream"):
        train_projection(make_model(), torch.zeros(2, 3), settings(), device="cpu", seed=0)
    with pytest.raises(ValueError, match="no context block"):
        train_projections(models.create("pythia", "tiny"), make_stream(), settings(), device="cpu", seed=0)

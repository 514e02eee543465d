"""Training that is stopped, killed or damaged: what goes on ends as a run that was never interrupted."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from newllm import models
from newllm.models.language_model import LanguageModel
from newllm.models.recurrent import RecurrentModel
from newllm.training.main import TrainingResult
from tests.training_setup import Data, StopAt, StoppedError, mean_loss, numbers, run, same_weights, tiny_model, training


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    model, result = run(tmp_path_factory.mktemp("uninterrupted"))
    assert len(result.history) == 4, "a run that stops early has more that a resumption can get wrong"
    return model, result


# 22 windows in batches of 4: 6 steps an epoch. Early stopping ends this run after 4 of 6 epochs.
@pytest.mark.parametrize(
    ("event", "step"),
    [
        ("on_step_end", 4),
        ("on_step_end", 6),
        ("on_step_end", 9),
        ("on_evaluate", 12),
        ("on_save", 24),
        ("on_train_end", 24),
    ],
)
@pytest.mark.parametrize("model_is_new", [True, False], ids=["restarted", "same-session"])
def test_a_stopped_run_ends_as_an_uninterrupted_one(tmp_path, uninterrupted, event, step, model_is_new):
    model, result = uninterrupted
    stopped = tiny_model()
    with pytest.raises(StoppedError):
        run(tmp_path, model=stopped, callbacks=[StopAt(event, step)])
    resumed_model, resumed = run(tmp_path, model=tiny_model() if model_is_new else stopped)
    assert numbers(resumed) == numbers(result)
    assert resumed.best_epoch == result.best_epoch
    assert same_weights(resumed_model, model)


def test_a_run_killed_twice_ends_as_an_uninterrupted_one(tmp_path, uninterrupted):
    """Killed within the second epoch, then while the second checkpoint is being written; then moved elsewhere."""
    place = tmp_path / "here"
    root = Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-m", "tests.training_setup", str(place)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "lib")},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr.decode()
    assert (place / "checkpoint-12" / "model.safetensors").exists(), "the kill came too early"
    assert not (place / "checkpoint-12" / "manifest.json").exists(), "the kill came too late"
    model, result = uninterrupted
    resumed_model, resumed = run(place.rename(tmp_path / "there"))
    assert numbers(resumed) == numbers(result)
    assert same_weights(resumed_model, model)


def test_the_best_checkpoint_is_found_after_a_move(tmp_path):
    settings = training(epochs=8, lr=0.05, patience=3)
    model, result = run(tmp_path / "straight", settings)
    with pytest.raises(StoppedError):
        run(tmp_path / "here", settings, callbacks=[StopAt("on_step_end", 6 * int(result.best_epoch) + 2)])
    moved = (tmp_path / "here").rename(tmp_path / "there")
    resumed_model, resumed = run(moved, settings)
    assert resumed.best_epoch == result.best_epoch
    assert same_weights(resumed_model, model)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(tmp_path, uninterrupted, caplog, name):
    model, result = uninterrupted
    with pytest.raises(StoppedError):
        run(tmp_path, callbacks=[StopAt("on_step_end", 20)])
    damaged = tmp_path / "checkpoint-18" / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    data = Data()
    resumed_model, resumed = run(tmp_path, data=data)
    assert numbers(resumed) == numbers(result)
    assert same_weights(resumed_model, model)
    assert str(damaged) in caplog.text
    # Two of four epochs, and the four windows by which the time is estimated.
    assert len(data.train.read) <= 2 * len(data.train) + 10


def test_a_damaged_manifest_that_nothing_goes_on_from_does_not_stop_a_training(tmp_path, uninterrupted):
    model, result = uninterrupted
    with pytest.raises(StoppedError):
        run(tmp_path, callbacks=[StopAt("on_step_end", 20)])
    (tmp_path / "checkpoint-12" / "manifest.json").write_text("{")
    resumed_model, resumed = run(tmp_path)
    assert numbers(resumed) == numbers(result)
    assert same_weights(resumed_model, model)


def test_damaged_weights_of_a_finished_training_are_trained_again(tmp_path, uninterrupted, caplog):
    model, result = uninterrupted
    run(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 16
    weights.write_bytes(content)
    again, repeated = run(tmp_path)
    assert "model.safetensors is damaged" in caplog.text
    assert numbers(repeated) == numbers(result)
    assert same_weights(again, model)


def test_another_run_is_not_resumed_by_mistake(tmp_path):
    run(tmp_path, training(epochs=1))
    with pytest.raises(ValueError, match=r"another training: choose another output folder"):
        run(tmp_path, training(epochs=1, lr=0.5))
    with pytest.raises(ValueError, match=r"another seed"):
        run(tmp_path, training(epochs=1), seed=4)
    with pytest.raises(ValueError, match=r"another data"):
        run(tmp_path, training(epochs=1), data=Data(identity={"source": "other"}))


@pytest.mark.parametrize(
    ("event", "step"), [("on_step_end", 3), ("on_step_end", 5), ("on_save", 8), ("on_evaluate", 10)]
)
def test_a_pass_is_resumed_in_its_middle(tmp_path, event, step):
    """Three held-out losses in each of two passes of 6 steps; the schedule goes on where it was."""
    settings = training(epochs=2, patience=2, schedule="cosine", warmup=0.2, evaluations=3)
    model, result = run(tmp_path / "straight", settings)
    assert [row["epoch"] for row in result.history] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    with pytest.raises(StoppedError):
        run(tmp_path / "stopped", settings, callbacks=[StopAt(event, step)])
    resumed_data = Data()
    resumed_model, resumed = run(tmp_path / "stopped", settings, data=resumed_data)
    assert numbers(resumed) == numbers(result)
    assert [row["learning_rate"] for row in resumed.history] == [row["learning_rate"] for row in result.history]
    assert resumed.best_epoch == result.best_epoch
    assert same_weights(resumed_model, model)


@pytest.mark.parametrize("name", ["pythia", "dproj"])
def test_our_models_train_stop_and_resume(tmp_path, name):
    """A model of the registry, its recurrence frozen where it has one: the same road, to the last bit."""

    def fresh() -> LanguageModel:
        torch.manual_seed(0)
        model = models.create(name, "tiny")
        if isinstance(model, RecurrentModel):
            model.freeze_context_blocks()
        return model

    def trained(folder: Path, **arguments: Any) -> tuple[LanguageModel, TrainingResult]:
        model = fresh()
        _, result = run(folder, training(epochs=2, lr=1e-3), model=model, **arguments)
        return model, result

    model, result = trained(tmp_path / "straight")
    with pytest.raises(StoppedError):
        trained(tmp_path / "stopped", callbacks=[StopAt("on_step_end", 8)])
    resumed_model, resumed = trained(tmp_path / "stopped")
    assert numbers(resumed) == numbers(result)
    assert same_weights(resumed_model, model)
    assert result.history[-1]["validation_loss"] == pytest.approx(mean_loss(model, Data().validation), abs=1e-5)
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    start = fresh().state_dict()
    assert bool(frozen) == (name == "dproj")
    assert all(torch.equal(model.state_dict()[name], start[name]) for name in frozen)

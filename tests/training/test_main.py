"""Main training: the best weights, the plain token mean, orders, schedules, and what is written."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import TrainerCallback

from newllm.training.callbacks import should_stop
from tests.training.shared_training import Interrupt, shared_run
from tests.training_setup import Data, StopAt, Windows, mean_loss, numbers, run, same_weights, tiny_model, training


def test_the_best_weights_are_kept_not_the_last(tmp_path):
    model, result = run(tmp_path, training(epochs=8, lr=0.05, patience=3))
    losses = [row["validation_loss"] for row in result.history]
    assert result.best_epoch < len(losses), "the settings must overfit for this test to say anything"
    assert losses[int(result.best_epoch) - 1] == min(losses)
    assert len(losses) == result.best_epoch + 3
    assert mean_loss(model, Data().validation) == pytest.approx(min(losses), abs=1e-5)
    assert abs(losses[-1] - min(losses)) > 1e-3

    restored, again = run(tmp_path, training(epochs=8, lr=0.05, patience=3), callbacks=[StopAt("on_train_begin", 0)])
    assert same_weights(restored, model)
    assert numbers(again) == numbers(result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "settings.json", "training.json"]


class Watch(TrainerCallback):
    """Note the checkpoint files and the optimiser's parameters."""

    def __init__(self) -> None:
        self.files: list[set[str]] = []
        self.optimised: set[int] = set()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        self.files.append({str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()})

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.optimised = {id(value) for group in optimizer.param_groups for value in group["params"]}


def test_checkpoints_are_few_small_and_hold_nothing_pickled(tmp_path):
    watch = Watch()
    _, result = run(tmp_path, training(epochs=8, lr=0.05, patience=3), callbacks=[watch])
    for epoch, files in enumerate(watch.files, start=1):
        assert {Path(name).suffix for name in files} == {".safetensors", ".json"}
        with_optimiser = [name for name in files if "optimizer" in name]
        last = {number for number in (epoch - 1, epoch) if number}
        assert set(with_optimiser) == {f"checkpoint-{6 * number}/optimizer.safetensors" for number in last}
        best = {min(range(end), key=lambda index: result.history[index]["validation_loss"]) + 1 for end in last}
        kept = {name.split("/")[0] for name in files if "/" in name}
        assert kept == {f"checkpoint-{6 * number}" for number in last | best}


def test_frozen_parameters_stay_and_are_not_optimised(tmp_path):
    model = tiny_model()
    frozen = model.gpt_neox.embed_in.weight.requires_grad_(False)
    before = frozen.clone()
    watch = Watch()
    run(tmp_path, training(epochs=1), model=model, callbacks=[watch])
    assert torch.equal(frozen, before)
    assert watch.optimised == {id(value) for value in model.parameters() if value.requires_grad}


def test_the_batch_order_depends_on_the_seed_alone(tmp_path):
    orders: dict[tuple[int, int], list[int]] = {}
    for attempt, (seed, global_seed) in enumerate([(0, 10), (0, 11), (1, 10)]):
        data = Data()
        model = tiny_model(global_seed)
        torch.manual_seed(global_seed)
        run(tmp_path / str(attempt), training(epochs=3, patience=3), model=model, data=data, seed=seed)
        orders[seed, global_seed] = data.train.read[-3 * 22 :]
    assert orders[0, 10] == orders[0, 11]
    epochs = [tuple(order[start : start + 22]) for order in (orders[0, 10], orders[1, 10]) for start in (0, 22, 44)]
    assert all(sorted(epoch) == list(range(22)) for epoch in epochs)
    assert len(set(epochs)) == 6, "no order is used twice, over epochs and neighbouring seeds"


def test_the_loss_is_the_plain_token_mean(tmp_path):
    """Also where batches differ in size and labels are masked: nothing is shifted, scaled or counted twice."""
    model, data = tiny_model(), Data(train=Windows(4, seed=5))
    model.config.hidden_dropout = 0.0
    model = type(model)(model.config)
    expected = mean_loss(model, data.train)
    _, result = run(tmp_path, training(epochs=1), model=model, data=data)
    assert result.history[0]["train_loss"] == pytest.approx(expected, abs=1e-5)
    # 10 held-out windows make batches of 4, 4 and 2.
    assert result.history[0]["validation_loss"] == pytest.approx(mean_loss(model, data.validation), abs=1e-5)


def test_one_step_is_the_step_of_plain_pytorch(tmp_path):
    data = Data(train=Windows(4, seed=5))
    model, reference = (tiny_model().eval() for _ in range(2))
    for part in [*model.modules(), *reference.modules()]:
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    settings = training(epochs=1, lr=1e-2, clip=0.5, weight_decay=0.1)
    decayed = [value for value in reference.parameters() if value.ndim > 1]
    others = [value for value in reference.parameters() if value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=settings.lr)
    reference(input_ids=data.train.ids, labels=data.train.ids).loss.backward()
    assert torch.nn.utils.clip_grad_norm_(reference.parameters(), settings.clip) > settings.clip
    optimiser.step()
    run(tmp_path, settings, model=model, data=data)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rate_follows_the_schedule(tmp_path, schedule):
    """Warm-up over a quarter of the 12 steps, then as the formula of each schedule says."""
    rates: list[float] = []

    class Note(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    run(tmp_path, training(epochs=2, patience=2, schedule=schedule, warmup=0.25), callbacks=[Note()])
    after = [(step - 3) / 9 for step in range(3, 12)]
    shape = {
        "constant": [1.0 for _ in after],
        "linear": [1 - share for share in after],
        "cosine": [(1 + math.cos(math.pi * share)) / 2 for share in after],
    }
    expected = [0.0, 1 / 3, 2 / 3, *shape[schedule]]
    assert rates == pytest.approx([0.02 * share for share in expected], abs=1e-12)


@pytest.mark.parametrize("saving", [{"micro_batch_size": 3}, {"micro_batch_size": 1, "gradient_checkpointing": True}])
def test_what_saves_memory_changes_no_number(tmp_path, saving):
    """Batches of 4 windows, the last one of a pass of 1, in parts of at most 3 or 1."""
    _, plain = shared_run(tmp_path / "plain")
    sizes: set[int] = set()
    model = tiny_model()
    watching = model.register_forward_pre_hook(
        lambda _, given, named: sizes.add(len(named["input_ids"])), with_kwargs=True
    )
    with pytest.raises(KeyboardInterrupt):
        shared_run(tmp_path / "saving", [Interrupt()], model, **saving)
    watching.remove()
    assert sizes == set(range(1, saving["micro_batch_size"] + 1)) - {2}
    # The rest without saving, which is no other training.
    _, found = shared_run(tmp_path / "saving")
    for mine, theirs in zip(numbers(found), numbers(plain), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    assert not model.is_activation_checkpointing


def test_the_betas_are_those_of_the_optimiser(tmp_path):
    seen: list[tuple[float, float]] = []

    class Note(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
            seen.extend(group["betas"] for group in optimizer.param_groups)

    run(tmp_path, training(epochs=1, adam_beta1=0.8, adam_beta2=0.95), callbacks=[Note()])
    assert set(seen) == {(0.8, 0.95)}


def test_divergence_stops_with_one_sentence(tmp_path):
    # A rate that is refused at the door: those that are not diverge later, and not surely.
    beyond = training(clip=1e30).model_copy(update={"lr": 1e30})
    with pytest.raises(FloatingPointError, match=r"diverged; lower lr"):
        run(tmp_path, beyond)


def test_bfloat16_trains_and_leaves_no_wrapper(tmp_path):
    _, full = run(tmp_path / "float32", training(epochs=1))
    model, half = run(tmp_path / "bfloat16", training(epochs=1, precision="bfloat16"))
    assert half.history[0]["train_loss"] == pytest.approx(full.history[0]["train_loss"], rel=0.02)
    assert half.history[0]["train_loss"] != full.history[0]["train_loss"]
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert model.config.use_cache, "the Trainer switches it off, and generation would crawl"
    # Under a wrapper that is left behind, the plain pass would be the one with autocast.
    ids = Data().validation.ids
    with torch.no_grad():
        plain = model.eval()(input_ids=ids).logits
        with torch.autocast("cpu", torch.bfloat16):
            cast = model(input_ids=ids).logits.float()
    assert not torch.equal(plain, cast)


def test_files_are_readable_without_this_package(tmp_path):
    model, result = run(tmp_path, training(epochs=1))
    stored = json.loads((tmp_path / "training.json").read_text())
    assert stored["history"] == result.history
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12), st.integers(1, 4))
def test_early_stopping_counts_epochs_since_the_best(losses, patience):
    best, since_best = math.inf, 0
    for loss in losses:
        best, since_best = (loss, 0) if loss < best else (best, since_best + 1)
        if since_best >= patience:
            break
    stopped_before = any(should_stop(losses[:length], patience) for length in range(1, len(losses) + 1))
    assert stopped_before == (since_best >= patience)

"""Healing brings back what was lost, follows what it is told to, and ends with equal numbers however it was cut."""

from pkgutil import resolve_name as resolve

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from newllm.config.retrofit import RetrofitParameters
from newllm.models.attention import Attention
from newllm.retrofit import retrofit
from newllm.retrofit.healing import following
from newllm.retrofit.token_ids import read_ids
from tests.retrofit.parents import IDS, TEXT, logits, trained


@pytest.mark.parametrize("loss", ["cross-entropy", "kl"])
def test_healing_brings_the_model_back_and_is_resumed(loss, tmp_path):
    parent = trained("neox").float()
    settings = {"kv_dim": 8, "healing_tokens": 112, "healing_loss": loss, "healing_lr": 0.01, "batch_size": 2}
    converted = retrofit(parent, TEXT, folder=tmp_path, **settings)
    stages = converted.report.set_index("stage")
    assert list(stages.index[-3:]) == ["replaced parts random", "not compressed", "1 averaged head"]
    assert set(stages["healing_tokens"]) == {0, 112}
    assert all(weight.requires_grad for weight in converted.parameters())
    unchanged = {
        name
        for name, value in converted.state_dict().items()
        if torch.equal(value, parent.state_dict().get(name, torch.ones(0)))
    }
    assert {name for name in parent.state_dict() if ".attention." not in name} <= unchanged
    again = retrofit(parent, TEXT, folder=tmp_path, **settings)
    assert again.report.drop(columns="energy_lost_by_layer").equals(
        converted.report.drop(columns="energy_lost_by_layer")
    )


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize(
    ("part", "calls"),
    [
        ("newllm.retrofit.calibration.Moments.add", 3),  # the second batch
        ("newllm.training.checkpoints.SafeTrainer.training_step", 2),  # of the model
        ("newllm.training.checkpoints.SafeTrainer.training_step", 6),  # of a control, after the model was healed
    ],
)
def test_what_is_killed_ends_with_equal_numbers(part, calls, tmp_path, monkeypatch):
    settings = {"kv_dim": 8, "healing_tokens": 64, "batch_size": 2, "healing_evaluations": 2, "healing_lr": 0.01}
    whole = retrofit(trained("neox").float(), TEXT, folder=tmp_path / "whole", **settings)
    module, name = part.rsplit(".", 1)
    with monkeypatch.context() as patch:
        original, done = resolve(part), []

        def dies(*arguments, **named):
            done.append(1)
            if len(done) == calls:
                raise Killed
            return original(*arguments, **named)

        patch.setattr(resolve(module), name, dies)
        with pytest.raises(Killed):
            retrofit(trained("neox").float(), TEXT, folder=tmp_path / "killed", **settings)
    again = retrofit(trained("neox").float(), TEXT, folder=tmp_path / "killed", **settings)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    pd.testing.assert_frame_equal(again.report, whole.report)


def test_following_the_teacher_is_its_divergence():
    teacher, model = trained("neox"), trained("neox")
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, Attention):
                part.dense.weight.mul_(1.5)
    expected = F.kl_div(
        logits(model)[:, :-1].log_softmax(-1),
        logits(teacher)[:, :-1].log_softmax(-1),
        log_target=True,
        reduction="none",
    ).sum(-1)
    model.train()
    with following(model, teacher):
        loss = model(IDS, labels=IDS).loss
        assert model.eval()(IDS, labels=IDS).loss > 1
    assert loss.item() == pytest.approx(expected.mean().item(), abs=1e-9)
    model.train()
    assert model(IDS, labels=IDS).loss.item() != pytest.approx(loss.item(), abs=1e-3)


def test_healing_is_judged_by_windows_that_are_neither_learned_nor_scored():
    parent = trained("neox")
    asked = RetrofitParameters(healing_tokens=64, batch_size=1)
    text = read_ids(parent, asked, TEXT, None, None)
    parts = [part.token_ids.tolist() for part in (text.train, text.validation, text.test)]
    # Each part ends with the id after it, which the next one begins with.
    assert parts[0] + parts[1][1:] + parts[2][1:] == TEXT.ravel()[: 11 * 16 + 1].tolist()
    assert [len(part) // 16 for part in parts] == [7, 2, 2]
    assert read_ids(parent, RetrofitParameters(), TEXT, None, None).validation.token_ids.tolist() == parts[2]


@pytest.mark.parametrize("change", [{"healing_loss": "kl"}, {"factorisation": "plain"}, {"seed": 1}])
def test_the_folder_of_another_retrofit_is_refused(change, tmp_path):
    """Its checkpoints would be taken for those of this one."""
    settings = {"kv_dim": 8, "healing_tokens": 64, "batch_size": 2, "controls": False}
    retrofit(trained("neox").float(), TEXT, folder=tmp_path, **settings)
    with pytest.raises(ValueError, match=f"another retrofit .other {next(iter(change))}.: give another folder"):
        retrofit(trained("neox").float(), TEXT, folder=tmp_path, **settings | change)
    other = trained("neox").float()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(ValueError, match="other weights"):
        retrofit(other, TEXT, folder=tmp_path, **settings)

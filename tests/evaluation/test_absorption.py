"""Absorbed and expanded attention agree, and a difference would show."""

import pytest
import torch

from newllm.evaluation.absorption import absorption_error
from newllm.models import create
from newllm.models.methods.mla import LatentAttention, MLAPythiaModel


def make(path="auto", **overrides):
    torch.manual_seed(0)
    model = create("mla", "tiny", initializer_range=0.2, **overrides)
    assert isinstance(model, MLAPythiaModel)
    model.attention_path = path
    return model


@pytest.mark.parametrize("position", ["alibi", "rope", "none"])
@pytest.mark.parametrize("path", ["auto", "absorbed", "expanded"])
def test_both_paths_are_one_function(position, path):
    model = make(path, position=position).train()
    assert absorption_error(model) < 1e-9
    assert model.training
    assert model.attention_path == path


def test_a_wrong_absorption_shows(monkeypatch):
    absorbed = LatentAttention._absorbed
    monkeypatch.setattr(LatentAttention, "_absorbed", lambda *given: 1.01 * absorbed(*given))
    assert absorption_error(make()) > 1e-4


def test_a_model_without_latents_is_refused():
    with pytest.raises(ValueError, match="PythiaModel has no attention_path"):
        absorption_error(create("pythia", "tiny"))

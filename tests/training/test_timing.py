"""The estimate of main training: in proportion to what is done, and without a trace in the model."""

import itertools
import time

import pytest
import torch

from newllm.training import muon
from newllm.training.timing import estimate_seconds
from tests.training_setup import CPU, Data, tiny_model, training


@pytest.mark.parametrize("matrix_lr", ["adamw", 1e-2])
def test_the_estimate_changes_no_weight_and_no_random_state(matrix_lr):
    model = tiny_model().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert 0 < estimate_seconds(model, Data(), training(matrix_lr=matrix_lr), device=CPU) < 60
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_it_grows_with_passes_and_held_out_losses(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", itertools.count().__next__)

    def seconds(**changes: int) -> float:
        return estimate_seconds(tiny_model(), Data(), training(**changes), device=CPU)

    assert seconds(epochs=400) == pytest.approx(200 * seconds(epochs=2))
    assert seconds(epochs=2, evaluations=3) > seconds(epochs=2)


def test_it_takes_the_steps_of_the_optimiser_that_will_train(monkeypatch):
    steps = []
    monkeypatch.setattr(muon, "orthogonalize", lambda matrix: steps.append(matrix) or matrix)
    estimate_seconds(tiny_model(), Data(), training(), device=CPU)
    assert not steps
    estimate_seconds(tiny_model(), Data(), training(matrix_lr=1e-2), device=CPU)
    assert steps

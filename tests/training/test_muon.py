"""Muon: what it does to a matrix, what it leaves to AdamW, and that a resumed run ends as an uninterrupted one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from newllm.models.registry import create
from newllm.training.muon import Muon, _steps, _steps_by_gram, muon_of, orthogonalize
from tests.training_setup import StopAt, StoppedError, numbers, run, same_weights, tiny_model, training


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 99))
def test_the_update_has_the_singular_vectors_of_the_gradient_and_values_near_one(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.mT @ orthogonalize(matrix) @ right.mT
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-8
    large = values > values[0] / 20
    assert ((inside.diagonal() > 0.5) & (inside.diagonal() < 1.3))[large].all()


@pytest.mark.parametrize("lowest", [1, 1e-6])
def test_wide_matrices_take_the_plain_steps_by_their_gram_matrices(lowest):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(64, 256), full_matrices=False)
    wide = left * torch.logspace(0, math.log10(lowest), 64) @ right
    wide /= wide.norm()
    plain = _steps(wide)
    assert (_steps_by_gram(wide) - plain).norm() < 1e-3 * plain.norm()
    assert (_steps_by_gram(wide.double()) - _steps(wide.double())).norm() < 1e-10
    assert torch.equal(orthogonalize(wide.mT), orthogonalize(wide).mT)


def test_matrices_move_as_under_the_muon_of_pytorch():
    """Which orthogonalises in bfloat16: equal to a few percent of an update."""
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(24, 16))
    theirs = nn.Parameter(ours.detach().clone())
    mine = Muon([{"params": [ours], "matrices": True}], lr=0.01, weight_decay=0.1)
    other = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    start = ours.detach().clone()
    for _ in range(4):
        ours.grad = torch.randn_like(ours)
        theirs.grad = ours.grad.clone()
        mine.step()
        other.step()
    assert (ours - theirs).norm() < 0.03 * (ours - start).norm()


def test_what_is_no_matrix_moves_as_under_adamw():
    torch.manual_seed(0)
    matrix, bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))
    alone = nn.Parameter(bias.detach().clone())
    both = Muon([{"params": [matrix], "matrices": True}, {"params": [bias], "matrices": False}], lr=0.01)
    adam = torch.optim.AdamW([alone], lr=0.01)
    for _ in range(3):
        matrix.grad, bias.grad = torch.randn(4, 4), torch.randn(4)
        alone.grad = bias.grad.clone()
        both.step()
        adam.step()
        assert torch.equal(bias, alone)
    with pytest.raises(ValueError, match="takes matrices"):
        Muon([{"params": [bias], "matrices": True}], lr=0.01)


@pytest.mark.parametrize("name", ["pythia", "mla", "dproj", "cascade"])
def test_muon_takes_the_maps_between_states_alone(name):
    model = create(name, "tiny")
    frozen = next(value for value in model.parameters() if value.ndim == 2)
    frozen.requires_grad_(False)
    optimizer = muon_of(model, lr=0.001, matrix_lr=0.02, weight_decay=0.1, betas=(0.9, 0.95))
    names = {id(value): key for key, value in model.named_parameters()}
    taken: dict[bool, set[str]] = {True: set(), False: set()}
    for group in optimizer.param_groups:
        keys = {names[id(value)] for value in group["params"]}
        taken[group["matrices"]] |= keys
        assert group["lr"] == (0.02 if group["matrices"] else 0.001)
        assert group["weight_decay"] or all("bias" in key or "norm" in key for key in keys)
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    assert taken[True] | taken[False] == trained
    assert taken[True]
    assert not any("embed" in key or "lm_head" in key for key in taken[True])


@pytest.mark.parametrize(("event", "step"), [("on_step_end", 9), ("on_save", 12)])
def test_a_stopped_run_ends_as_an_uninterrupted_one(tmp_path, event, step):
    asked = training(epochs=3, matrix_lr=0.02)
    model, result = run(tmp_path / "straight", asked)
    with pytest.raises(StoppedError):
        run(tmp_path / "stopped", asked, model=tiny_model(), callbacks=[StopAt(event, step)])
    resumed_model, resumed = run(tmp_path / "stopped", asked, model=tiny_model())
    assert numbers(resumed) == numbers(result)
    assert same_weights(resumed_model, model)


def test_the_rate_of_matrices_has_an_effect(tmp_path):
    losses = [
        run(tmp_path / str(rate), training(epochs=1, matrix_lr=rate))[1].history[-1]["train_loss"]
        for rate in ("adamw", 0.001, 0.02)
    ]
    assert len(set(losses)) == len(losses)


def test_a_closure_gives_the_gradients_of_the_step_that_it_is_given_to():
    torch.manual_seed(0)
    start, bias = torch.randn(4, 4), torch.randn(4)
    moved = []
    for by_closure in (False, True):
        matrix, rest = nn.Parameter(start.clone()), nn.Parameter(bias.clone())
        optimizer = Muon([{"params": [matrix], "matrices": True}, {"params": [rest], "matrices": False}], lr=0.01)

        def loss(matrix: nn.Parameter = matrix, rest: nn.Parameter = rest) -> float:
            value = (matrix @ rest).square().sum()
            value.backward()
            return value.item()

        said = optimizer.step(loss) if by_closure else (loss(), optimizer.step())[0]
        moved.append((matrix.detach(), rest.detach(), said))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(moved[0][:2], moved[1][:2], strict=True))
    assert moved[0][2] == moved[1][2]
    assert not torch.equal(moved[0][0], start)

"""Muon for the matrices of the blocks, AdamW for everything else, in one optimiser."""

import math
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import get_parameter_names

from newllm.config.groups import TrainingParameters

# Coefficients of Jordan et al. (2024): singular values of up to one come near one in five steps.
QUINTIC = (3.4445, -4.7750, 2.0315)
STEPS = 5
MOMENTUM = 0.95

# Root mean square of an AdamW update, to which Muon's is scaled (Liu et al. 2025, arXiv 2502.16982, eq. 4).
UPDATE_RMS = 0.2

# AdamW does not decay these (the Trainer of transformers decides by the same names).
UNDECAYED = [r"bias", r"norm"]


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return nearly U V^T of the singular value decomposition U S V^T of a matrix (m, n), by Newton-Schulz steps.

    The odd polynomial p(x) = a x + b x^3 + c x^5 is applied five times to the singular values, which ends between 0.7
    and 1.2 for all but the smallest (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon). In the matrix's
    own type, where PyTorch's own Muon multiplies in bfloat16: on a CPU without such products, 60 times as long.

    Of a matrix W of twice as many columns as rows or more only W W^T is taken through the steps, for each step
    multiplies W from the left by a polynomial of it. Equal to the plain steps to 1e-3 of the norm in float32, of
    singular values six orders of magnitude apart, in 0.55 of the time for (256, 1024).
    """
    wide = matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    wide = _steps_by_gram(wide) if wide.shape[-1] >= 2 * wide.shape[-2] else _steps(wide)
    return wide.mT if matrix.shape[-2] > matrix.shape[-1] else wide


def _steps(wide: Tensor) -> Tensor:
    """Take a matrix W (m, n) of norm one through the steps W <- P W, P as `_polynomial` has it of G = W W^T."""
    for _ in range(STEPS):
        wide = _polynomial(wide @ wide.mT) @ wide
    return wide


def _steps_by_gram(wide: Tensor) -> Tensor:
    """Do the same with products of (m, m) alone: the G of the next step is P G P."""
    gram = wide @ wide.mT
    polynomial = _polynomial(gram)
    product = polynomial
    for _ in range(STEPS - 1):
        gram = polynomial @ (gram @ polynomial)
        polynomial = _polynomial(gram)
        product = polynomial @ product
    return product @ wide


def _polynomial(gram: Tensor) -> Tensor:
    """Return P = a + b G + c G^2."""
    a, b, c = QUINTIC
    polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    polynomial.diagonal().add_(a)
    return polynomial


class Muon(AdamW):
    """Muon (Jordan et al. 2024) for the groups of parameters with ``matrices``, and AdamW for the other groups.

    A matrix moves along its orthogonalised gradient with Nesterov momentum, scaled so that one learning rate means what
    it means for AdamW; its weight decay is AdamW's.

    Parameters
    ----------
    params
        Groups of parameters, each with ``matrices`` (whether Muon takes them, all of two dimensions).
    **settings
        Of AdamW.
    """

    def __init__(self, params: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(params, **settings)
        if wrong := [value for group in self._of_muon() for value in group["params"] if value.ndim != 2]:
            raise ValueError(f"Muon takes matrices, not a parameter of shape {tuple(wrong[0].shape)}")

    def _of_muon(self) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group["matrices"]]

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; gradients of matrices are used up."""
        loss = None
        if closure is not None:
            # Before the matrices move: it gives the gradients.
            with torch.enable_grad():
                loss = closure()
        for group in self._of_muon():
            for value in group["params"]:
                if value.grad is not None:
                    self._move(value, value.grad, group)
                    # AdamW passes over parameters without a gradient.
                    value.grad = None
        super().step()
        return loss

    @torch.no_grad()
    def _move(self, value: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[value]
        if not state:
            # AdamW asks every state that it loads for its step.
            state.update(step=torch.tensor(0.0), momentum=torch.zeros_like(value))
        state["step"] += 1
        momentum = state["momentum"]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalize(gradient.lerp(momentum, MOMENTUM))
        value.mul_(1 - group["lr"] * group["weight_decay"])
        value.add_(update, alpha=-group["lr"] * UPDATE_RMS * math.sqrt(max(value.shape)))


def muon_of(
    model: PreTrainedModel, *, lr: float, matrix_lr: float, weight_decay: float, betas: tuple[float, float]
) -> Muon:
    """Build the optimiser of a model's trainable parameters.

    Muon takes what has two dimensions and neither reads tokens nor gives logits: it assumes that a matrix maps states
    to states.

    Parameters
    ----------
    model
        The model.
    lr
        Learning rate of AdamW: embeddings, head, biases, norms.
    matrix_lr
        Learning rate of Muon.
    weight_decay
        Of matrices and embeddings.
    betas
        Of AdamW.
    """
    of_tokens = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer}
    decayed = set(get_parameter_names(model, [nn.LayerNorm], UNDECAYED))
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {(True, True): [], (False, True): [], (False, False): []}
    for name, value in model.named_parameters():
        if value.requires_grad:
            is_matrix = value.ndim == 2 and id(value) not in of_tokens
            groups[is_matrix, is_matrix or name in decayed].append(value)
    return Muon(
        [
            {
                "params": values,
                "matrices": matrices,
                "lr": matrix_lr if matrices else lr,
                "weight_decay": weight_decay if decays else 0.0,
            }
            for (matrices, decays), values in groups.items()
            if values
        ],
        lr=lr,
        betas=betas,
    )


def optimizer_of(model: PreTrainedModel, parameters: TrainingParameters) -> Muon | None:
    """Return Muon with AdamW; None where AdamW alone is asked for, which the Trainer builds."""
    if isinstance(parameters.matrix_lr, str):
        return None
    return muon_of(
        model,
        lr=parameters.lr,
        matrix_lr=parameters.matrix_lr,
        weight_decay=parameters.weight_decay,
        betas=(parameters.adam_beta1, parameters.adam_beta2),
    )

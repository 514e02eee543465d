"""A model that leaks on purpose, to show that the certificate catches it; the registry does not know it."""

import torch
from torch import Tensor

from newllm.models.methods.pythia import PythiaModel
from newllm.models.position import PositionEncoding
from newllm.models.step import Step


class _SwappedStep(Step):
    """A step whose attention bias has its rows and columns exchanged."""

    def _build_bias(self, encoding: PositionEncoding, dtype: torch.dtype) -> Tensor | None:
        bias = super()._build_bias(encoding, dtype)
        return None if bias is None or self.past_length else bias.transpose(-1, -2)


class SwappedMaskModel(PythiaModel):
    """The mistake of an earlier build: the ALiBi bias with queries and keys exchanged, so every query sees its future.

    Wants ``position="alibi"``: only a bias can be swapped. In cached decoding it looks as good as the right one, which
    is why no sample of its text gives it away.
    """

    def encode(self, step: Step) -> Tensor:
        """Run the blocks under the swapped bias."""
        return super().encode(_SwappedStep(step.embeds, step.positions, step.key_positions, step.key_mask, step.cache))

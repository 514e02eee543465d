"""What a layer's inputs look like on real text: their covariance, gathered in a stream."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class Moments:
    """Mean and covariance of vectors that come a few at a time, in float64; memory does not grow with their number.

    Batches are merged as Chan, Golub and LeVeque (1983, eq. 2.1) do, because the difference of two large sums would
    lose what is small.

    Parameters
    ----------
    width
        Entries d of a vector.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)

    def add(self, vectors: Tensor) -> None:
        """Take vectors (..., d) of any dtype, from any device."""
        rows = vectors.detach().flatten(0, -2).to("cpu", torch.float64)
        if not len(rows):
            return
        mean = rows.mean(0)
        centred = rows - mean
        total = self.count + len(rows)
        shift = mean - self.mean
        self._scatter += centred.T @ centred + torch.outer(shift, shift) * (self.count * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """Covariance (d, d) about the mean; ValueError where no vector was added."""
        if not self.count:
            raise ValueError("there is no covariance of no vectors: give some calibration text")
        return self._scatter / self.count

    @property
    def second_moment(self) -> Tensor:
        """Mean of x x^T (d, d), about zero."""
        return self.covariance + torch.outer(self.mean, self.mean)

    @property
    def with_constant(self) -> Tensor:
        """Second moment (d + 1, d + 1) of the vectors with a one behind each, which a bias multiplies."""
        mean = self.mean[:, None]
        return torch.cat([torch.cat([self.second_moment, mean], 1), torch.cat([mean.T, torch.ones_like(mean[:1])], 1)])


@contextmanager
def outputs_of(modules: Mapping[int, nn.Module]) -> Iterator[dict[int, Moments]]:
    """Gather the moments of what these modules put out while the block runs.

    Parameters
    ----------
    modules
        By the number of their layer; each puts out one tensor (..., d).

    Yields
    ------
    dict
        The moments by number; a module that did not run has none.
    """
    moments: dict[int, Moments] = {}

    def gather(number: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        moments.setdefault(number, Moments(output.shape[-1])).add(output)

    handles = [module.register_forward_hook(partial(gather, number)) for number, module in modules.items()]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def calibrate(
    model: PreTrainedModel, modules: Mapping[int, nn.Module], batches: Iterable[Tensor]
) -> dict[int, Moments]:
    """Run text through a model and gather the moments of what some of its modules put out.

    Parameters
    ----------
    model
        A trained model; its mode is given back.
    modules
        Which modules, by the number of their layer.
    batches
        Token ids (B, T), one batch at a time.

    Raises
    ------
    ValueError
        Where there is no batch.
    """
    was_training = model.training
    model.eval()
    try:
        with outputs_of(modules) as moments:
            for ids in batches:
                model(ids.to(model.device), use_cache=False, logits_to_keep=1)
    finally:
        model.train(was_training)
    if not moments:
        raise ValueError("no calibration text was given: give at least one batch of token ids")
    return moments

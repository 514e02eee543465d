"""OACD (Origin-Anchored Centroid Dispersion), the loss that trains a recurrence: contexts apart, mean at the origin."""

from typing import NamedTuple

import torch
from torch import Tensor


class OacdTerms(NamedTuple):
    """The two terms of the OACD loss, each a scalar tensor.

    Attributes
    ----------
    distance
        ``-||X - mu||_F / n``: falls as the contexts move away from their mean.
    centroid
        ``||mu||^2``, not weighted: falls as the mean moves to the origin.
    """

    distance: Tensor
    centroid: Tensor

    def loss(self, centroid_weight: float) -> Tensor:
        """Add the terms up, ``distance + centroid_weight * centroid``."""
        return self.distance + centroid_weight * self.centroid


def oacd_terms(x: Tensor) -> OacdTerms:
    """Compute both terms of the OACD loss of contexts ``x`` (n, P).

    Parameters
    ----------
    x
        Contexts of one mini-batch (n, P).

    Returns
    -------
    OacdTerms
        ``distance`` and ``centroid``; gradients flow through both.

    Raises
    ------
    ValueError
        Where ``x`` is not a matrix with at least one row.
    """
    if x.ndim != 2 or x.shape[0] == 0:
        raise ValueError(f"contexts must have shape (n, P) with n of at least 1, not {tuple(x.shape)}")
    mean = x.mean(dim=0)
    return OacdTerms(distance=-torch.linalg.vector_norm(x - mean) / x.shape[0], centroid=mean.square().sum())


def oacd_loss(x: Tensor, centroid_weight: float = 0.1) -> Tensor:
    """Compute the OACD loss ``-||X - mu||_F / n + centroid_weight * ||mu||^2``: for a training loop of one's own.

    Parameters
    ----------
    x
        Contexts of one mini-batch (n, P), with mean row ``mu``.
    centroid_weight
        Weight of the second term.

    Returns
    -------
    Tensor
        The loss, a scalar.

    Raises
    ------
    ValueError
        Where ``x`` is not a matrix with at least one row.
    """
    return oacd_terms(x).loss(centroid_weight)

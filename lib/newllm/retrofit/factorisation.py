"""Weights of low rank: what a layer makes of its input, kept as one narrow latent and rebuilt from it.

A layer's keys and values are y = W x. A latent z = D x of fewer entries is cached, and U z stands for y. Among all
matrices of rank r the error E |W x - U D x|^2 is least where U holds the r first principal directions of y and
D = U^T W: the eigenvectors of W C W^T, with C the covariance of x on calibration text. That is the singular value
decomposition of W C^(1/2), without a root or an inverse of C (Eckart and Young 1936; for weights of language models
Yuan et al. 2023, ASVD, and Wang et al. 2024, SVD-LLM, sec. 3). With C = I it is the plain decomposition of W.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """A latent and what is rebuilt from it.

    Attributes
    ----------
    compress
        D (r, d): from a layer's input to the latent.
    expand
        U (m, r): from the latent to what the weights would have made.
    energies
        Energy of every principal direction (m,), the largest first; the first r of them are kept.
    """

    compress: Tensor
    expand: Tensor
    energies: Tensor

    @property
    def rank(self) -> int:
        """Entries r of the latent."""
        return self.compress.shape[0]

    @property
    def energy_lost(self) -> float:
        """Share of the energy E |W x|^2 that the latent does not hold, between 0 and 1."""
        total = float(self.energies.sum())
        return float(self.energies[self.rank :].sum()) / total if total else 0.0


def principal_directions(weight: Tensor, covariance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the directions of y = W x, those of most energy first.

    Parameters
    ----------
    weight
        W (m, d).
    covariance
        C (d, d) of the input; None stands for the identity.

    Returns
    -------
    tuple of Tensor
        Directions (m, m), a column each, and their energies (m,), both float64: in float32 the smallest of them would
        drown in rounding.

    Raises
    ------
    ValueError
        Where shapes do not fit, or a number is not finite.
    """
    matrix = weight.detach().to("cpu", torch.float64)
    width = matrix.shape[1]
    spread = torch.eye(width, dtype=torch.float64) if covariance is None else covariance.to("cpu", torch.float64)
    if spread.shape != (width, width):
        raise ValueError(f"weights read {width} entries, but the covariance is of {tuple(spread.shape)}")
    energy = matrix @ spread @ matrix.T
    if not torch.isfinite(energy).all():
        raise ValueError("weights and covariance must be finite: the checkpoint or the calibration is damaged")
    values, vectors = torch.linalg.eigh((energy + energy.T) / 2)
    return vectors.flip(1), values.flip(0).clamp(min=0)


def factorise(weight: Tensor, rank: int, covariance: Tensor | None = None) -> Factors:
    """Replace weights by two factors of a lower rank, with the least error on inputs of this covariance.

    Parameters
    ----------
    weight
        W (m, d).
    rank
        Entries r of the latent, from 1 to m; with m of them nothing is lost.
    covariance
        C (d, d) of the input; None gives the plain decomposition of W.

    Raises
    ------
    ValueError
        Where the rank is out of range, or as `principal_directions`.
    """
    if not 1 <= rank <= weight.shape[0]:
        raise ValueError(f"rank={rank} must be between 1 and {weight.shape[0]}, the values that the layer makes")
    directions, energies = principal_directions(weight, covariance)
    expand = directions[:, :rank].contiguous()
    return Factors(expand.T @ weight.detach().to("cpu", torch.float64), expand, energies)


def factorise_apart(weights: Sequence[Tensor], ranks: Sequence[int], covariance: Tensor | None = None) -> Factors:
    """Factorise several weights of one input each by itself, into parts of one latent that stand side by side.

    Parameters
    ----------
    weights
        W_i (m_i, d), such as those of keys and of values.
    ranks
        Entries of the latent for each.
    covariance
        As for `factorise`.

    Returns
    -------
    Factors
        Of the stacked weights; ``expand`` has blocks on its diagonal and zeros beside them. Its energies are those
        kept, then those lost.
    """
    parts = [factorise(weight, rank, covariance) for weight, rank in zip(weights, ranks, strict=True)]
    kept = torch.cat([part.energies[: part.rank] for part in parts])
    lost = torch.cat([part.energies[part.rank :] for part in parts])
    return Factors(
        torch.cat([part.compress for part in parts]),
        torch.block_diag(*(part.expand for part in parts)),
        torch.cat([kept, lost]),
    )


def allot_ranks(energies: Sequence[Tensor], total: int, *, least: int = 1) -> list[int]:
    """Give ranks out over layers so that the shares of energy lost, summed over the layers, are least.

    Each entry goes to the layer whose next direction holds the largest share of the energy of its layer. As energies
    fall within a layer, that is the best of all allotments.

    Parameters
    ----------
    energies
        For each layer those of its directions (m,), the largest first.
    total
        Entries to give out over all layers.
    least
        Entries that every layer has at least.

    Raises
    ------
    ValueError
        Where there are too few entries for ``least``, or more than there are directions.
    """
    sizes = [len(values) for values in energies]
    if not least * len(sizes) <= total <= sum(sizes):
        raise ValueError(f"total={total} must be between {least * len(sizes)} and {sum(sizes)} for {len(sizes)} layers")
    shares = [(values / values.sum().clamp(min=torch.finfo(torch.float64).tiny)).tolist() for values in energies]
    ranks = [least] * len(sizes)
    waiting = [(-shares[layer][least], layer) for layer in range(len(sizes)) if least < sizes[layer]]
    heapq.heapify(waiting)
    for _ in range(total - least * len(sizes)):
        _, layer = heapq.heappop(waiting)
        ranks[layer] += 1
        if ranks[layer] < sizes[layer]:
            heapq.heappush(waiting, (-shares[layer][ranks[layer]], layer))
    return ranks

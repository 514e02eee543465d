"""Measures of contexts and of the recurrence: convergence rate, effective rank, contraction."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

EFFECTIVE_RANK_ROWS = 10_000
# Places of a stream at which the fading of a disturbance is measured.
PLACES = 64
# A disturbance of which as much is left after a stretch as at its middle is not taken to fade: below 1, as it varies.
STILL_FADING = 0.85


class Recurrence(Protocol):
    """What reads tokens into a context: ``DiverseProjection``, or anything that is called like it."""

    @property
    def proj_dim(self) -> int:
        """Width P of a context."""

    def __call__(self, prev: Tensor, embeds: Tensor, /) -> Tensor:
        """Next contexts (n, P) from previous contexts (n, P) and embeddings (n, E)."""


def compute_convergence_rate(cur: Tensor, prev: Tensor, threshold: float = 0.03) -> float:
    """Compute the share of tokens whose context hardly moved between two passes over the same tokens.

    Parameters
    ----------
    cur
        Contexts of this pass (T, P).
    prev
        Contexts of the pass before (T, P), in the same token order.
    threshold
        A token counts where its mean squared change over the P values is below this.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        Where the shapes differ or there is no token.
    """
    if cur.shape != prev.shape or cur.ndim != 2 or cur.shape[0] == 0:
        raise ValueError(
            f"compute_convergence_rate compares two passes of one shape (T, P), not {tuple(cur.shape)} "
            f"and {tuple(prev.shape)}"
        )
    moved = (cur - prev).square().mean(dim=1)
    return (moved < threshold).double().mean().item()


def singular_values(x: Tensor) -> Tensor:
    """Singular values of the uncentred contexts, largest first, of at most 10,000 rows.

    Parameters
    ----------
    x
        Contexts (T, P); of a longer stream, 10,000 rows evenly spread over it are taken.

    Returns
    -------
    Tensor
        ``min(rows, P)`` values in float64, on the CPU.

    Raises
    ------
    ValueError
        Where ``x`` is not a matrix with at least one row, or holds values that are not finite.
    """
    if x.ndim != 2 or x.shape[0] == 0:
        raise ValueError(f"contexts have shape (T, P) with T of at least 1, not {tuple(x.shape)}")
    rows = x.shape[0]
    if rows > EFFECTIVE_RANK_ROWS:
        x = x[torch.arange(EFFECTIVE_RANK_ROWS, device=x.device) * rows // EFFECTIVE_RANK_ROWS]
    x = x.detach().double().cpu()
    if not x.isfinite().all():
        raise ValueError("contexts hold values that are not finite: the projection training diverged")
    return torch.linalg.svdvals(x)


def effective_rank(x: Tensor) -> float:
    """Compute the effective rank of contexts: the exponential of the entropy of their spectrum.

    With singular values s of the uncentred matrix and ``p = s / sum(s)`` it is ``exp(-sum p log p)`` (Roy and
    Vetterli, 2007).

    Parameters
    ----------
    x
        Contexts (T, P); at most 10,000 rows are used, evenly spread.

    Returns
    -------
    float
        Between 1 and min(T, P); 0 where all contexts are zero.

    Raises
    ------
    ValueError
        Where ``x`` is not a matrix with at least one row, or holds values that are not finite.
    """
    values = singular_values(x)
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values / total
    return torch.special.entr(shares).sum().exp().item()


@dataclass(frozen=True)
class Contraction:
    """How a disturbance of the context fades while the recurrence reads on.

    Attributes
    ----------
    disturbances
        Largest absolute difference between two runs over the same tokens from different contexts, before the first
        token and after each one: the value that nine places of the stream in ten stay below.
    """

    disturbances: tuple[float, ...]

    @property
    def tokens(self) -> int:
        """Tokens read."""
        return len(self.disturbances) - 1

    @property
    def ratio(self) -> float:
        """What is left of the disturbance after all tokens, as a share of what it was; infinite if it overflowed."""
        ratio = self.disturbances[-1] / self.disturbances[0]
        return ratio if math.isfinite(ratio) else math.inf

    @property
    def late_ratio(self) -> float:
        """What is left of the disturbance after all tokens, as a share of what it was half way; infinite as `ratio`.

        Behind a norm two runs cannot part further than contexts do. Where a recurrence expands, their distance shrinks
        at first, from that of any two vectors to that of any two contexts, and then stays: this is about 1.
        """
        half_way = self.disturbances[self.tokens // 2]
        ratio = self.disturbances[-1] / half_way if half_way else 0.0
        return ratio if math.isfinite(ratio) else math.inf

    def warm_up(self, tolerance: float) -> int | None:
        """Tokens to read from any context until it agrees with the true one up to ``tolerance``.

        Returns
        -------
        int or None
            None where the disturbance does not fade to the end. Beyond the tokens that were read, the decay goes on as
            it was in the second half of them.
        """
        for tokens, disturbance in enumerate(self.disturbances):
            if disturbance <= tolerance:
                return max(1, tokens)
        if max(self.ratio, self.late_ratio) >= STILL_FADING or tolerance <= 0:
            return None
        decay = math.log(self.late_ratio) / (self.tokens - self.tokens // 2)
        return self.tokens + math.ceil(math.log(tolerance / self.disturbances[-1]) / decay)


@torch.no_grad()
def contraction(projection: Recurrence, embeds: Tensor, *, tokens: int = 64, places: int = PLACES) -> Contraction:
    """Measure how a disturbance decays while a recurrence reads ``tokens`` tokens.

    At some places spread over the stream the recurrence runs twice: from the zero context, and from a context of
    independent standard normal values, which has the norm that contexts behind a LayerNorm have.

    Parameters
    ----------
    projection
        The recurrence.
    embeds
        Normed embeddings (T, E), where the projection is.
    tokens
        Tokens to read at each place; a shorter stream is read whole.
    places
        Places, at most.

    Returns
    -------
    Contraction
        The decay; ``ratio`` below 1 where the recurrence contracts.

    Raises
    ------
    ValueError
        Where the stream is empty.
    """
    length = embeds.shape[0]
    if length == 0:
        raise ValueError("contraction needs at least one token")
    tokens = min(tokens, length)
    probes = min(places, length // tokens)
    starts = torch.arange(probes, device=embeds.device) * (length // probes)
    generator = torch.Generator().manual_seed(0)
    undisturbed = embeds.new_zeros(probes, projection.proj_dim)
    disturbed = torch.randn(probes, projection.proj_dim, generator=generator).to(embeds)
    disturbances = [_nine_in_ten(disturbed)]
    for offset in range(tokens):
        rows = embeds[starts + offset]
        undisturbed, disturbed = projection(undisturbed, rows), projection(disturbed, rows)
        disturbances.append(_nine_in_ten(disturbed - undisturbed))
    return Contraction(tuple(disturbances))


def _nine_in_ten(differences: Tensor) -> float:
    """Largest absolute difference of each probe (n, P), and of these the one that 90 % of the probes stay below."""
    # On the CPU and in float64: a quantile is not taken of bfloat16, and not every device has float64.
    return differences.abs().amax(dim=1).cpu().double().quantile(0.9).item()

"""Which entries of a head stay rotated: the rest of its keys can be made from a latent.

RoPE turns pairs of entries (i, i + r/2), each by its own frequency. A pair that is no longer turned loses its position,
which changes the model; how much depends on the pairs. What the choices are called follows MHA2MLA (Ji et al. 2025,
sec. 3.1). Keys of several heads can share one rotary key: a pair is a complex number, RoPE multiplies it by a phase,
and what multiplies a pair of a key by another complex number commutes with that. So among all keys that heads could
share, the best for a frequency is the first principal direction of the heads' pairs, as complex numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from newllm.retrofit.calibration import Moments
from newllm.retrofit.heads import Heads


@dataclass(frozen=True)
class Split:
    """The entries of a head that stay rotated, and the others.

    Attributes
    ----------
    pairs
        Number of each pair that stays rotated, for every key head (G, p).
    rotated
        Their entries: the first of each pair, then the second of each (G, 2 p).
    unrotated
        All other entries (G, d_h - 2 p).
    """

    pairs: Tensor
    rotated: Tensor
    unrotated: Tensor


def split_entries(pairs: Tensor, rotary_dim: int, head_dim: int) -> Split:
    """Part the entries of heads of width ``head_dim``, whose first ``rotary_dim`` are turned, by pairs (G, p)."""
    rotated = torch.cat([pairs, pairs + rotary_dim // 2], dim=1)
    everything = set(range(head_dim))
    unrotated = [sorted(everything - set(row)) for row in rotated.tolist()]
    return Split(pairs, rotated, torch.tensor(unrotated, dtype=torch.long).view(len(pairs), -1))


def choose_pairs(
    heads: Heads, rotary_dim: int, count: int, choice: str, moments: Moments, *, same_for_all: bool = False
) -> Tensor:
    """Choose the pairs that stay rotated.

    Parameters
    ----------
    heads
        Of one layer.
    rotary_dim
        Entries of a head that are turned.
    count
        Pairs to keep, p.
    choice
        ``norm``: those whose queries and keys are largest on the calibration text, by the product of their norms;
        ``uniform``: evenly spread over the frequencies; ``high`` and ``low``: those of the highest and lowest.
    moments
        Of the layer's input.
    same_for_all
        Whether all heads keep the same pairs.

    Returns
    -------
    Tensor
        Numbers of the pairs (G, p), rising.
    """
    groups, half = len(heads.keys), rotary_dim // 2
    if choice == "norm":
        sizes = []
        for weight, bias in ((heads.queries, heads.query_bias), (heads.keys, heads.key_bias)):
            rows = torch.cat([weight, bias[..., None]], dim=-1)[:, :rotary_dim]
            energy = torch.einsum("hid,de,hie->hi", rows, moments.with_constant, rows)
            sizes.append(energy.unflatten(1, (2, half)).sum(1))
        scores = sizes[0].unflatten(0, (groups, -1)).sum(1).sqrt() * sizes[1].sqrt()
        if same_for_all:
            scores = scores.sum(0, keepdim=True).expand(groups, -1)
        return scores.topk(count, dim=1).indices.sort(1).values
    spread = {
        "uniform": torch.linspace(0, half - 1, count).round().long(),
        "high": torch.arange(count),
        "low": torch.arange(half - count, half),
    }[choice]
    return spread.expand(groups, -1)


def share_rotary_keys(heads: Heads, split: Split, moments: Moments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make one rotary key for all heads, and the queries for it.

    Parameters
    ----------
    heads
        Of one layer.
    split
        Its pairs, the same for all heads.
    moments
        Of the layer's input.

    Returns
    -------
    tuple of Tensor
        Weights (H, 2 p, d) and biases (H, 2 p) of the queries, weight (1, 2 p, d) and bias (1, 2 p) of the key.
    """
    keys = _complex_rows(heads.keys, heads.key_bias, split)
    queries = _complex_rows(heads.queries, heads.query_bias, split, heads.share)
    spread = moments.with_constant.to(keys.dtype)
    # For each pair the energies of the heads beside each other, (p, G, G).
    energy = torch.einsum("gpd,de,kpe->pgk", keys, spread, keys.conj())
    directions = torch.linalg.eigh(energy).eigenvectors[..., -1]
    shared = torch.einsum("pg,gpd->pd", directions.conj(), keys)
    # A head's pair is its direction times the shared one; the score holds the conjugate of the key.
    turned = queries * directions.T.conj().repeat_interleave(heads.share, dim=0)[..., None]
    (query, query_bias), (key, key_bias) = _real_rows(turned), _real_rows(shared[None])
    return query, query_bias, key, key_bias


def _complex_rows(weight: Tensor, bias: Tensor, split: Split, share: int = 1) -> Tensor:
    """Rotated pairs of heads as complex rows with the bias behind them, (heads, p, d + 1)."""
    rows = torch.cat([weight, bias[..., None]], dim=-1)
    index = split.rotated.repeat_interleave(share, dim=0)[..., None].expand(-1, -1, rows.shape[-1])
    first, second = rows.gather(1, index).chunk(2, dim=1)
    return torch.complex(first, second)


def _real_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Complex rows (heads, p, d + 1) as weights (heads, 2 p, d) and biases (heads, 2 p)."""
    entries = torch.cat([rows.real, rows.imag], dim=1)
    return entries[..., :-1], entries[..., -1]

"""Arguments of a forward call that only its last part reads: checked first, because a cache keeps what was begun."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from newllm.models.conditions import require


def check_cache_position(given: Tensor | None, past: int, length: int) -> None:
    """Refuse places in the cache that are not those behind the cached tokens."""
    if given is not None and given.tolist() != list(range(past, past + length)):
        raise ValueError(f"cache_position must be {past} to {past + length - 1} for these tokens, or left out")


def check_logits_to_keep(given: Any, length: int) -> None:
    """Refuse what names no logits of a call.

    Parameters
    ----------
    given
        How many last logits are kept, an int, of which 0 means all, as any number from ``length`` on does; or a tensor
        of positions (N,), which count from the end where they are negative.
    length
        Tokens T of the call.

    Raises
    ------
    ValueError
        Where it is neither, or a position lies outside of the call.
    """
    if isinstance(given, Tensor):
        if given.ndim != 1 or given.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                "logits_to_keep must be one row of positions, int64 or int32, or a number of last logits, got "
                f"{tuple(given.shape)} of {given.dtype}"
            )
        require(
            (given >= -length) & (given < length),
            f"logits_to_keep names positions outside of this call, which go from 0 to {length - 1}",
        )
    elif isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(
            f"logits_to_keep={given!r} must be a number of last logits, 0 for all, or a tensor of positions"
        )


def check_num_items(given: Any) -> None:
    """Refuse what a loss cannot be divided by.

    Parameters
    ----------
    given
        A number of predicted tokens, as a number or as a tensor of one element; None where a call counts its own. A
        tensor's value is not looked at, because a GPU would have to be waited for; the loss takes less than 1 as 1.

    Raises
    ------
    ValueError
        Where it is none of these.
    """
    if given is None:
        return
    if isinstance(given, Tensor):
        if given.numel() != 1 or given.dtype == torch.bool or given.is_complex():
            raise ValueError(
                f"num_items_in_batch must be one number of predicted tokens, got {tuple(given.shape)} of {given.dtype}"
            )
        return
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    # What a number is, is not known while a graph is made of it.
    if not is_number or (not torch.compiler.is_compiling() and not 1 <= given < math.inf):
        raise ValueError(f"num_items_in_batch={given!r} must be a number of predicted tokens, 1 or more, or left out")

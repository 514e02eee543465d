"""Conditions on values, which a call can ask and a compiled graph cannot."""

import torch
from torch import Tensor


def holds_whole_numbers(values: Tensor) -> bool:
    """Tell whether a tensor's type is one of integers, which truth values are not."""
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def require(condition: Tensor, message: str) -> None:
    """Refuse a call where a condition does not hold everywhere.

    Parameters
    ----------
    condition
        True where it holds, of any shape.
    message
        What is wrong, and what to do.

    Raises
    ------
    ValueError
        Where it does not hold. In a graph of torch.compile, which goes on before values are known, a RuntimeError where
        the graph runs.
    """
    if torch.compiler.is_compiling():
        torch._assert_async(condition.all(), message)
    elif not bool(condition.all()):
        raise ValueError(message)

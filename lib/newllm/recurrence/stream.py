"""What a stream of tokens must be for a recurrence to read it."""

import torch
from torch import Tensor

# Ids that are widened at a time.
PART = 1_000_000


def check_stream(token_ids: Tensor, vocabulary: int, least: int = 1) -> None:
    """Refuse ids that are not one stream (T,) of at least ``least`` tokens of a vocabulary of that size.

    Raises
    ------
    ValueError
        Where they are not.
    """
    if not isinstance(token_ids, Tensor):
        raise ValueError(f"token_ids must be a tensor of shape (T,), not a {type(token_ids).__name__}")
    if token_ids.ndim != 1 or len(token_ids) < least:
        wanted = "one token" if least == 1 else f"{least} tokens"
        raise ValueError(f"token_ids must be one stream (T,) of at least {wanted}, not {tuple(token_ids.shape)}")
    if token_ids.is_floating_point() or token_ids.is_complex() or token_ids.dtype == torch.bool:
        raise ValueError(f"token_ids must be whole numbers, not {token_ids.dtype}")
    # Widened, as int8 cannot be compared with a larger vocabulary, and uint16 has no largest value in PyTorch.
    if any(part.min() < 0 or part.max() >= vocabulary for part in map(Tensor.long, token_ids.split(PART))):
        raise ValueError(f"token_ids must be from 0 to {vocabulary - 1}, the ids that the model knows")

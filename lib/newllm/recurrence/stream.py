"""What a stream of tokens must be for a recurrence to read it."""

from torch import Tensor


def check_stream(token_ids: Tensor, vocabulary: int, least: int = 1) -> None:
    """Refuse ids that are not one stream (T,) of at least ``least`` tokens of a vocabulary of that size.

    Raises
    ------
    ValueError
        Where they are not.
    """
    if token_ids.ndim != 1 or len(token_ids) < least:
        wanted = "one token" if least == 1 else f"{least} tokens"
        raise ValueError(f"token_ids must be one stream (T,) of at least {wanted}, not {tuple(token_ids.shape)}")
    if token_ids.is_floating_point() or token_ids.is_complex():
        raise ValueError(f"token_ids must be whole numbers, not {token_ids.dtype}")
    if token_ids.min() < 0 or token_ids.max() >= vocabulary:
        raise ValueError(f"token_ids must be from 0 to {vocabulary - 1}, the ids that the model knows")

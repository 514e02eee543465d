"""What a stream of tokens must be for a recurrence to read it."""

from torch import Tensor


def check_stream(token_ids: Tensor, least: int = 1) -> None:
    """Refuse ids that are not one stream (T,) of at least ``least`` tokens.

    Raises
    ------
    ValueError
        Where they are not.
    """
    if token_ids.ndim != 1 or len(token_ids) < least:
        wanted = "one token" if least == 1 else f"{least} tokens"
        raise ValueError(f"token_ids must be one stream (T,) of at least {wanted}, not {tuple(token_ids.shape)}")

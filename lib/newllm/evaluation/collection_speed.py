"""How fast the contexts of a stream are collected in parallel, beside the loop over its tokens, and how equal."""

import math
import time
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from newllm.models.recurrent import RecurrentModel
from newllm.recurrence.collection import collect_context_cache_sequential_multiblock, collect_model_contexts

# The first calls of every kernel cost more: they are not timed.
WARM_UP_TOKENS = 4096


@dataclass(frozen=True)
class CollectionSpeed:
    """One stream collected in two ways, in one process.

    Attributes
    ----------
    tokens, seconds
        The whole stream, collected in parallel.
    rounds, residual, sequential
        What verified it, as in `newllm.recurrence.collection.ContextCollection`.
    loop_tokens, loop_seconds
        The part of the stream, from its beginning, that the loop over tokens collected.
    largest_difference
        Largest absolute difference of a context between the two, over that part.
    """

    tokens: int
    seconds: float
    rounds: int
    residual: float
    sequential: bool
    loop_tokens: int
    loop_seconds: float
    largest_difference: float

    def table(self) -> pd.DataFrame:
        """One row a way: tokens run, seconds, speed, seconds for the stream (the loop's by its speed), difference."""
        parallel = "parallel in time" + (", then token by token" if self.sequential else "")
        ways = [
            (parallel, self.tokens, self.seconds, self.largest_difference),
            ("token by token", self.loop_tokens, self.loop_seconds, math.nan),
        ]
        return pd.DataFrame(
            {
                "collection": way,
                "tokens run": tokens,
                "seconds": seconds,
                "tokens/s": tokens / seconds,
                "seconds for the stream": seconds / tokens * self.tokens,
                "largest_difference": difference,
            }
            for way, tokens, seconds, difference in ways
        )


def time_collection(
    model: RecurrentModel, token_ids: Tensor, device: torch.device | str, *, loop_tokens: int
) -> CollectionSpeed:
    """Collect the contexts of all blocks of a model over a stream in parallel, and over its beginning token by token.

    Parameters
    ----------
    model
        A model with recurrences; moved to ``device``.
    token_ids
        The stream (T,).
    device
        Where to compute.
    loop_tokens
        Tokens that the loop runs over, at most; it takes minutes for a million.
    """
    beginning = token_ids[:loop_tokens]
    collect_model_contexts(model, token_ids[:WARM_UP_TOKENS], device)
    start = time.perf_counter()
    collection = collect_model_contexts(model, token_ids, device)
    middle = time.perf_counter()
    expected = collect_context_cache_sequential_multiblock(model, beginning, device, len(model.context_blocks))
    end = time.perf_counter()
    return CollectionSpeed(
        tokens=len(token_ids),
        seconds=middle - start,
        rounds=collection.rounds,
        residual=collection.residual,
        sequential=collection.sequential,
        loop_tokens=len(beginning),
        loop_seconds=end - middle,
        largest_difference=(collection.contexts[: len(beginning)] - expected).abs().max().item(),
    )

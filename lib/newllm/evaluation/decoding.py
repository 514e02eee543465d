"""How fast models decode: one token at a time through a filled cache, side by side."""

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from newllm.evaluation.cache import held_bytes
from newllm.evaluation.memory import TensorMemory
from newllm.evaluation.probing import cached_length, forward_in_pieces, pieces_of, probe_generator, random_tokens
from newllm.models.growing_layer import GrowingLayer

# Tokens of one prefill call: long calls are fast, but attention weights of some models grow with their length.
PREFILL_TOKENS = 512


class DecodingSession:
    """One model decoding one sequence through its own cache.

    Parameters
    ----------
    model
        Any causal language model of transformers' kind; it is put into eval mode.
    longest
        Tokens that `fill` can be asked for.
    """

    def __init__(self, model: PreTrainedModel, longest: int) -> None:
        self.model = model.eval()
        self.cache: Cache | None = None
        # What the prompt says makes no difference to speed.
        self.prompt = random_tokens(model, 1, longest, probe_generator())
        self.next_token: Tensor = self.prompt[:, :1]

    @torch.no_grad()
    def fill(self, context: int, *, computed: int | None = None) -> float:
        """Fill the cache up to ``context`` tokens.

        Parameters
        ----------
        context
            Tokens that the cache shall hold.
        computed
            Prefill this many tokens only, and repeat what the cache holds of them after that: as fast to decode, and
            filled in no time, but not the cache of any text. Omitted, all tokens are computed.

        Returns
        -------
        float
            Seconds it took.

        Raises
        ------
        ValueError
            Where entries shall be repeated but are not kept by token.
        """
        start = time.perf_counter()
        last = context if computed is None else min(computed, context)
        self._forward(self.prompt[:, cached_length(self.cache) : last])
        if last < context:
            self._repeat(context)
        return time.perf_counter() - start

    def _repeat(self, context: int) -> None:
        assert self.cache is not None
        for layer in self.cache.layers:
            if type(layer) is not DynamicLayer and type(layer) is not GrowingLayer:
                raise ValueError(f"{type(self.model).__name__} keeps more than entries by token: leave out computed")
            assert layer.keys is not None and layer.values is not None
            entries = torch.arange(context, device=layer.keys.device) % layer.keys.shape[-2]
            layer.keys, layer.values = (kept.index_select(-2, entries) for kept in (layer.keys, layer.values))

    @torch.no_grad()
    def decode(self) -> float:
        """Decode one token greedily; returns the seconds it took."""
        start = time.perf_counter()
        self._forward(self.next_token)
        return time.perf_counter() - start

    def _forward(self, tokens: Tensor) -> None:
        pieces = pieces_of(tokens.shape[1], PREFILL_TOKENS)
        steps = forward_in_pieces(self.model, tokens, pieces, cache=self.cache, last_logits_only=True)
        for _, logits, cache in steps:
            # Reading the token waits for the device, so times are those of the computation.
            self.next_token = tokens.new_full((1, 1), int(logits[0, -1].argmax()))
            self.cache = cache


def compare_decoding(
    models: Mapping[str, PreTrainedModel], contexts: Sequence[int], *, steps: int = 16, computed: int | None = None
) -> pd.DataFrame:
    """Time decode steps of several models in turn, at several lengths of context.

    The models take turns token by token, so that whatever else the machine does meets all of them: ratios within one
    call are worth more than the times.

    Parameters
    ----------
    models
        Models by the name that the table gives them.
    contexts
        Tokens in the cache before the first timed step, each at least 1.
    steps
        Timed tokens for each model and context; one more goes before them untimed, in which memory is counted.
    computed
        As in `DecodingSession.fill`.

    Returns
    -------
    DataFrame
        A row for each context (ascending) and model: ``context``, ``model``, ``fill_seconds`` (from the context
        before), ``seconds_per_token`` (median), ``tokens_per_second``, ``cache_bytes`` (held before the first step),
        ``step_bytes`` (most that the tensors of one step hold above the cache and the weights).

    Raises
    ------
    ValueError
        Where a context or ``steps`` is no positive number, or the contexts leave no room for the steps between them.
    """
    contexts = sorted(contexts)
    if steps < 1 or not contexts or contexts[0] < 1:
        raise ValueError(f"contexts={list(contexts)} and steps={steps} must be 1 or more")
    if any(following - context < steps + 1 for context, following in itertools.pairwise(contexts)):
        raise ValueError(f"contexts={list(contexts)} must lie more than {steps} steps apart")
    sessions = {name: DecodingSession(model, contexts[-1]) for name, model in models.items()}
    rows = []
    for context in contexts:
        fills = {name: session.fill(context, computed=computed) for name, session in sessions.items()}
        held = {name: held_bytes(session.cache) for name, session in sessions.items() if session.cache is not None}
        needed = {name: _step_bytes(session) for name, session in sessions.items()}
        rounds = [{name: session.decode() for name, session in sessions.items()} for _ in range(steps)]
        for name in sessions:
            seconds = statistics.median(times[name] for times in rounds)
            rows.append(
                {
                    "context": context,
                    "model": name,
                    "fill_seconds": fills[name],
                    "seconds_per_token": seconds,
                    "tokens_per_second": 1 / seconds,
                    "cache_bytes": held[name],
                    "step_bytes": needed[name],
                }
            )
    return pd.DataFrame(rows)


def _step_bytes(session: DecodingSession) -> int:
    with TensorMemory() as memory:
        session.decode()
    return memory.peak


def crossovers(timings: pd.DataFrame, model: str) -> pd.DataFrame:
    """Find the context from which on a model decodes faster than each of the others.

    Parameters
    ----------
    timings
        Rows of `compare_decoding`.
    model
        Name of a model in it.

    Returns
    -------
    pandas.DataFrame
        One row each other model, in the order of the timings: ``against``, ``faster_from`` (the shortest measured
        context at which, and at every longer one, ``model`` takes less time; NA where it does not at the longest),
        ``times_as_fast`` (at the longest context).

    Raises
    ------
    ValueError
        For a name that is not in the table.
    """
    seconds = timings.pivot(index="context", columns="model", values="seconds_per_token").sort_index()
    names = timings["model"].unique()
    if model not in names:
        raise ValueError(f"{model!r} was not timed: choose from {', '.join(names)}")
    rows = []
    for other in names[names != model]:
        ahead = (seconds[model] < seconds[other])[::-1].cumprod().astype(bool)
        rows.append(
            {
                "against": other,
                "faster_from": ahead.index[ahead].min() if ahead.any() else pd.NA,
                "times_as_fast": seconds[other].iloc[-1] / seconds[model].iloc[-1],
            }
        )
    return pd.DataFrame(rows).astype({"faster_from": "Int64"})

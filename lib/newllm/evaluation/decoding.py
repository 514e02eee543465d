"""How fast models decode: one token at a time through a filled cache, side by side."""

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, StaticCache, StaticLayer

from newllm.evaluation.cache import held_bytes, reserved_bytes
from newllm.evaluation.memory import BytesRead, TensorMemory
from newllm.evaluation.probing import cached_length, forward_in_pieces, pieces_of, probe_generator, random_tokens
from newllm.models.growing_layer import GrowingLayer
from newllm.models.language_model import LanguageModel
from newllm.runtime import commit, machine_load

# How a cache takes a token: into room it has, with a copy of all entries, or into room that was there from the start.
GROWS, COPIES, STATIC = "grows by blocks", "copied at each step", "static"

# Tokens of one prefill call: long calls are fast, but attention weights of some models grow with their length.
PREFILL_TOKENS = 512


class DecodingSession:
    """One model decoding one sequence through a cache: its own, or one that is given.

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
        for layer in self._entry_layers():
            assert layer.keys is not None and layer.values is not None
            entries = torch.arange(context, device=layer.keys.device) % layer.keys.shape[-2]
            repeated = [kept.index_select(-2, entries) for kept in (layer.keys, layer.values)]
            layer.reset()
            layer.update(*repeated)

    def _entry_layers(self) -> list[DynamicLayer]:
        """Layers of the cache; ValueError where they are not all of entries by token."""
        assert self.cache is not None
        layers = [layer for layer in self.cache.layers if isinstance(layer, DynamicLayer)]
        if len(layers) < len(self.cache.layers) or {type(layer) for layer in layers} - {DynamicLayer, GrowingLayer}:
            raise ValueError(f"{type(self.model).__name__} keeps more than entries by token: leave out computed")
        return layers

    @torch.no_grad()
    def with_static_cache(self, room: int) -> "DecodingSession":
        """Make a session that goes on from the same entries in transformers' static cache, with ``room`` for more."""
        cache = StaticCache(config=self.model.config, max_cache_len=cached_length(self.cache) + room)
        for layer, filled in zip(cache.layers, self._entry_layers(), strict=True):
            assert isinstance(layer, StaticLayer) and filled.keys is not None and filled.values is not None
            layer.update(filled.keys, filled.values)
        session = DecodingSession(self.model, 1)
        session.cache, session.next_token = cache, self.next_token
        return session

    @torch.no_grad()
    def decode(self) -> float:
        """Decode one token greedily; returns the seconds it took."""
        start = time.perf_counter()
        self._forward(self.next_token)
        return time.perf_counter() - start

    @torch.no_grad()
    def read_once(self) -> float:
        """Read the weights that a step reads, and what the cache holds, once; returns the seconds it took."""
        table = self.model.get_input_embeddings().weight
        read = [weight for weight in self.model.parameters() if weight is not table]
        if self.model.config.get_text_config().tie_word_embeddings:
            read.append(table)
        for layer in () if self.cache is None else self.cache.layers:
            read += [tensor for tensor in vars(layer).values() if isinstance(tensor, Tensor)]
        start = time.perf_counter()
        # Reading the sum waits for the device.
        float(torch.stack([tensor.sum().float() for tensor in read]).sum())
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
    call are worth more than the times. Models of this package decode through their own caches. Those of transformers
    have two rows: one through the cache that they make by default, which copies itself at each step, and one, called
    ``<model>, static cache``, through a static cache with room for the timed steps, which does not.

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
        A row for each context (ascending), model and cache:

        - ``context``, ``model``, ``cache`` (how it takes a token: `GROWS`, `COPIES` or `STATIC`);
        - ``fill_seconds`` (from the context before; empty for static caches, which take entries over);
        - ``seconds_per_token`` (median), ``tokens_per_second``;
        - ``reading_seconds`` (median time of reading all weights of a step, and the cache, once) and
          ``times_reading`` (how many times as long a step takes);
        - ``cache_bytes`` (kept before the first step) and ``reserved_bytes`` (with the room for tokens to come);
        - ``read_bytes`` (what the operations of a step read beside the weights: the cache, as often as they do, and
          all that is made of it);
        - ``step_bytes`` (most that the tensors of one step hold above the cache and the weights);
        - ``threads``, ``load`` (of the machine, in the minute before the call; empty where it is not told) and
          ``commit`` (of the code; empty outside a clone).

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
    circumstances = {"threads": torch.get_num_threads(), "load": machine_load(), "commit": commit()}
    own = {name: DecodingSession(model, contexts[-1]) for name, model in models.items()}
    rows = []
    for context in contexts:
        fills = {name: session.fill(context, computed=computed) for name, session in own.items()}
        sessions = dict(own)
        for name, session in own.items():
            if not isinstance(session.model, LanguageModel):
                sessions[f"{name}, static cache"] = session.with_static_cache(steps + 1)
        counted = {name: _count(session) for name, session in sessions.items()}
        rounds = [{name: (one.decode(), one.read_once()) for name, one in sessions.items()} for _ in range(steps)]
        for name, session in sessions.items():
            seconds, reading = (statistics.median(times[name][part] for times in rounds) for part in (0, 1))
            row = {"context": context, "model": name, "cache": _kind_of(session), "fill_seconds": fills.get(name)}
            row |= {"seconds_per_token": seconds, "tokens_per_second": 1 / seconds}
            row |= {"reading_seconds": reading, "times_reading": seconds / reading}
            rows.append(row | counted[name] | circumstances)
    return pd.DataFrame(rows)


def _count(session: DecodingSession) -> dict[str, int]:
    """Bytes of a session's cache, and of one of its steps."""
    assert session.cache is not None
    cache_bytes, reserved = held_bytes(session.cache), reserved_bytes(session.cache)
    with TensorMemory() as memory, BytesRead(session.model.parameters()) as read:
        session.decode()
    return {
        "cache_bytes": cache_bytes,
        "reserved_bytes": reserved,
        "read_bytes": read.total,
        "step_bytes": memory.peak,
    }


def _kind_of(session: DecodingSession) -> str:
    """How a session's cache takes a token."""
    if isinstance(session.cache, StaticCache):
        return STATIC
    return GROWS if isinstance(session.model, LanguageModel) else COPIES


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

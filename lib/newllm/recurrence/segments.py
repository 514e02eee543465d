"""One stretch of a stream through a recurrence: in segments side by side where it forgets, else token by token."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from newllm.models.projection import DiverseProjection, DiverseProjectionLayer, weight_of
from newllm.recurrence.convergence import PLACES, Recurrence, contraction

logger = logging.getLogger(__name__)
MOST_ROUNDS = 8
# Shares of the loop's time that may be spent on finding out whether a recurrence forgets, and in vain on all rounds but
# the first: together they stay below the tenth that collecting may take longer than the loop.
PROBING_SHARE, LATER_ROUNDS_SHARE = 0.04, 0.04
# Tokens that a probe reads, the next where the one before was too few.
PROBED_TOKENS = (32, 64, 256, 1024, 4096)
# Rows whose contexts are put in place at once by the loop.
ROWS_AT_ONCE = 1024

Advance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Verification:
    """What verified the contexts of a stretch; attributes as in `newllm.recurrence.collection.ContextCollection`."""

    rounds: int
    residual: float
    sequential: bool


@dataclass
class _Segments:
    """Segments of a stretch, in order, and what is known of them.

    Attributes
    ----------
    firsts, lengths
        First token and number of tokens of each (S,).
    starts, ends
        The context that each was started from and the one that it came to (S, P).
    """

    firsts: Tensor
    lengths: Tensor
    starts: Tensor
    ends: Tensor

    def gaps(self) -> Tensor:
        """Largest absolute difference between each start but the first, and the end before it (S - 1,)."""
        return (self.starts[1:] - self.ends[:-1]).abs().amax(dim=1)

    def failing(self, tolerance: float) -> Tensor:
        """Segments whose start is not the end before it; a gap that is not a number fails."""
        return (~(self.gaps() <= tolerance)).nonzero()[:, 0].cpu() + 1


def run(projection: Recurrence, embeds: Tensor, state: Tensor, target: Tensor, tolerance: float) -> Verification:
    """Fill ``target`` (T, P) with the contexts of ``embeds`` (T, E), from ``state`` (1, P) on; all on one device."""
    warm_up = forgotten_after(projection, embeds, tolerance)
    count = 1 if warm_up is None else _segment_count(len(embeds), warm_up, embeds.device)
    if warm_up is None or count == 1:
        run_by_hand(projection, embeds, state, target)
        return Verification(rounds=0, residual=0.0, sequential=True)
    return _run_in_parallel(projection, embeds, state, target, tolerance, warm_up, count)


def run_by_hand(projection: Recurrence, embeds: Tensor, state: Tensor, target: Tensor) -> Tensor:
    """Fill ``target`` (T, P) token by token from ``state`` (1, P) on; return the last context (1, P).

    Nothing is precomputed, and the operations are those of a call of ``projection``, token by token: where a recurrence
    amplifies rounding, only they give its very contexts.
    """
    step = _by_hand(projection)
    for part, place in zip(embeds.split(ROWS_AT_ONCE), target.split(ROWS_AT_ONCE), strict=True):
        contexts = []
        for row in part.split(1):
            state = step(state, row)
            contexts.append(state)
        torch.cat(contexts, out=place)
    return state.clone()


def forgotten_after(projection: Recurrence, embeds: Tensor, tolerance: float) -> int | None:
    """Tokens after which a recurrence has forgotten where it began, up to ``tolerance``; None where it does not.

    The first probe is short and tells most recurrences that expand from those that contract. Probes grow until the
    disturbance is seen to have faded, or as much time is spent as this may cost; then its decay is extrapolated.
    """
    allowed = PROBING_SHARE * len(embeds)
    found = None
    for tokens in PROBED_TOKENS:
        # Two runs, each of one step a token: as many places as can be afforded.
        affordable = (allowed / (2 * tokens) - 1) * _rows_worth_a_step(embeds.device)
        places = min(PLACES, int(affordable), len(embeds) // tokens)
        if places < 1:
            break
        probe = contraction(projection, embeds, tokens=tokens, places=places)
        allowed -= 2 * tokens * _cost_of_a_step(places, embeds.device)
        found = probe.warm_up(tolerance)
        if found is None or found <= tokens:
            break
    return found


def _rows_worth_a_step(device: torch.device) -> int:
    """Contexts that a step must work on at a time before its work costs as much as its fixed overhead."""
    return 32 if device.type == "cpu" else 2048


def _cost_of_a_step(rows: int, device: torch.device) -> float:
    """Time of a step of that many rows, in steps of the loop."""
    return 1 + rows / _rows_worth_a_step(device)


def _segment_count(tokens: int, warm_up: int, device: torch.device) -> int:
    """Choose how many segments take least time; 1 where that is the sequential loop.

    With S segments there are ``tokens / S + warm_up`` steps, and each costs a fixed overhead plus a share for each of
    its S rows: least at the root of ``tokens * rows_worth_a_step / warm_up``.
    """
    segments = round(math.sqrt(tokens * _rows_worth_a_step(device) / warm_up))
    # The warm-up of a segment must lie within the one before.
    return max(1, min(segments, tokens // warm_up))


def _run_in_parallel(
    projection: Recurrence,
    embeds: Tensor,
    state: Tensor,
    target: Tensor,
    tolerance: float,
    warm_up: int,
    count: int,
) -> Verification:
    """Fill ``target`` in rounds over segments, until each start agrees with its predecessor's end."""
    # Lengths differ by one at most, the longer ones come first.
    lengths = torch.full((count,), len(embeds) // count)
    lengths[: len(embeds) % count] += 1
    firsts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)[:-1]])
    starts = state.repeat(count, 1)
    step = _fused(projection)
    starts[1:] = _warm_starts(step, starts.new_zeros(count - 1, starts.shape[1]), embeds, firsts[1:], warm_up)
    segments = _Segments(firsts, lengths, starts, torch.empty_like(starts))
    running = torch.arange(count)
    allowed = LATER_ROUNDS_SHARE * len(embeds)
    for rounds in range(1, MOST_ROUNDS + 1):
        segments.ends[running] = _run_segments(step, embeds, firsts[running], lengths[running], starts[running], target)
        failing = segments.failing(tolerance)
        if len(failing) == 0:
            return Verification(rounds, segments.gaps().max().item(), sequential=False)
        if rounds == 1 and 2 * len(failing) > count:
            logger.warning("the recurrence does not forget: this stretch of the stream runs token by token")
            run_by_hand(projection, embeds, state, target)
            return Verification(rounds, residual=0.0, sequential=True)
        # A round settles one segment at least, as the loop would; what it costs beyond that may be in vain.
        allowed -= int(lengths[failing[0]]) * (_cost_of_a_step(len(failing), embeds.device) - 1)
        # Starts are those that the segments were run from: what runs no more keeps them, or nobody saw where it fails.
        if allowed < 0 or rounds == MOST_ROUNDS:
            break
        running = failing
        starts[running] = segments.ends[running - 1]
    logger.warning("the recurrence forgets too slowly: segments that do not join run token by token")
    _rejoin(projection, embeds, segments, target, tolerance)
    return Verification(rounds, segments.gaps().max().item(), sequential=True)


def _rejoin(projection: Recurrence, embeds: Tensor, segments: _Segments, target: Tensor, tolerance: float) -> None:
    """Run failing segments one after the other, from the end before each; those that join again stay as they are."""
    for index in range(1, len(segments.firsts)):
        before, start = segments.ends[index - 1 : index], segments.starts[index : index + 1]
        if bool(((start - before).abs() <= tolerance).all()):
            continue
        first = int(segments.firsts[index])
        part = slice(first, first + int(segments.lengths[index]))
        segments.starts[index] = before[0]
        segments.ends[index] = run_by_hand(projection, embeds[part], before.clone(), target[part])[0]


def _by_hand(projection: Recurrence) -> Advance:
    """Return the step of a plain ``DiverseProjection`` by the operations of its call, its weight parted once."""
    if not _is_plain(projection):
        return projection
    layer, width = projection.layer, projection.proj_dim
    weight, bias = weight_of(layer.linear), layer.linear.bias
    from_context, from_token = weight[:, :width], weight[:, width:]

    def step(prev: Tensor, embeds: Tensor) -> Tensor:
        mixed = F.linear(prev, from_context) + F.linear(embeds, from_token, bias)
        return layer.norm(prev + F.gelu(mixed))

    return step


def _fused(projection: Recurrence) -> Advance:
    """Return the step of a plain ``DiverseProjection`` with fewer passes over memory; any other recurrence as it is."""
    if not _is_plain(projection):
        return projection
    layer, width = projection.layer, projection.proj_dim
    from_context = layer.linear.weight[:, :width].t().contiguous()
    from_token = layer.linear.weight[:, width:].t().contiguous()

    def step(prev: Tensor, embeds: Tensor) -> Tensor:
        mixed = torch.addmm(layer.linear.bias, embeds, from_token).addmm_(prev, from_context)
        return layer.norm(F.gelu(mixed).add_(prev))

    return step


def _is_plain(projection: Recurrence) -> TypeGuard[DiverseProjection]:
    """Whether a recurrence is the one of the models here, with nothing changed about it."""
    return type(projection) is DiverseProjection and type(projection.layer) is DiverseProjectionLayer


def _warm_starts(
    step: Callable[[Tensor, Tensor], Tensor], states: Tensor, embeds: Tensor, firsts: Tensor, warm_up: int
) -> Tensor:
    """Contexts before tokens ``firsts``, from ``states`` ``warm_up`` tokens earlier."""
    rows = firsts.to(embeds.device)
    for offset in range(-warm_up, 0):
        states = step(states, embeds.index_select(0, rows + offset))
    return states


def _run_segments(
    step: Callable[[Tensor, Tensor], Tensor],
    embeds: Tensor,
    firsts: Tensor,
    lengths: Tensor,
    states: Tensor,
    target: Tensor,
) -> Tensor:
    """Run segments side by side from ``states`` (S, P), write every context to ``target``, return the last ones.

    ``lengths`` must not increase.
    """
    rows = firsts.to(embeds.device)
    for offset in range(int(lengths[0])):
        active = int((lengths > offset).sum())
        here = rows[:active] + offset
        following = step(states[:active], embeds.index_select(0, here))
        target.index_copy_(0, here, following)
        states = following if active == len(states) else torch.cat([following, states[active:]])
    return states

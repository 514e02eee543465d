"""How much of a comparison is done and how long the rest takes: from what was expected, corrected by what was seen."""

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from newllm.runs.progress import Plan, PlannedTrial, TrialState, read_state
from newllm.wording import describe_seconds

# A stage's own pace counts in full from this share of it on, and before that in proportion.
SHARE_TO_BELIEVE = 0.1
SECONDS_TO_BELIEVE = 2.0

# However much a first second deviates, nothing is said to take more than so many times as long as was expected.
MOST_CORRECTION = 5.0


@dataclass(frozen=True)
class Row:
    """Where a trial stands.

    Attributes
    ----------
    arm, seed
        Which one.
    stage
        What it is doing, in words.
    share
        Share of its time that is over, 0 to 1.
    numbers
        What was found so far, by name.
    left
        Seconds that it still needs, once it runs.
    is_running, is_done
        Whether it is at work; whether it is finished, or failed.
    """

    arm: str
    seed: int
    stage: str
    share: float
    numbers: Mapping[str, float]
    left: float
    is_running: bool
    is_done: bool


@dataclass(frozen=True)
class Outlook:
    """Where a comparison stands: a row a trial, seconds since it began, and seconds that it still needs."""

    rows: tuple[Row, ...]
    passed: float
    left: float


def look(plan: Plan) -> Outlook:
    """Read what the trials of a plan are doing, and say where the comparison stands."""
    found = {trial.folder: read_state(trial.folder) for trial in plan.trials}
    # A killed process may have left files.
    states = {place: state for place, state in found.items() if state and state.started_at >= plan.started_at}
    return outlook(plan, states, time.time())


def outlook(plan: Plan, states: Mapping[Path, TrialState], now: float) -> Outlook:
    """Say where a comparison stands.

    Parameters
    ----------
    plan
        Its trials, with what is expected of each.
    states
        What those that are at work are doing, by their folder.
    now
        Seconds since 1970.
    """
    left: dict[Path, float] = {}
    seen = believed = 0.0
    for trial in plan.trials:
        expected = sum(trial.expected.values())
        state = states.get(trial.folder)
        if trial.seconds is not None:
            seen, believed = seen + trial.seconds, believed + expected
        elif state is not None:
            left[trial.folder], share = _rest(trial.expected, state, now)
            seen, believed = seen + now - state.started_at, believed + share * expected
    pace = _correction(seen, believed)
    rows = tuple(_row(trial, states, left, _waiting_seconds(trial, plan, pace), now) for trial in plan.trials)
    running = [row.left for row in rows if row.is_running]
    waiting = [row.left for row in rows if not row.is_running and not row.is_done]
    passed = now - plan.started_at
    start = 0.0 if len(waiting) < len(rows) else max(0.0, plan.start_seconds - passed)
    return Outlook(rows, passed, start + side_by_side(running, waiting, plan.processes))


def side_by_side(running: Sequence[float], waiting: Sequence[float], processes: int) -> float:
    """Say how long pieces of work take, as many at a time as there are processes, in their order.

    Parameters
    ----------
    running
        Seconds that those need that have begun.
    waiting
        Seconds of those that have not.
    processes
        How many are worked on at a time.
    """
    free = sorted(running)[-processes:]
    free += [0.0] * (processes - len(free))
    heapq.heapify(free)
    for seconds in waiting:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def _waiting_seconds(trial: PlannedTrial, plan: Plan, pace: float) -> float:
    """Seconds of a trial that has not begun: as its arm's other seeds took, or as expected at the pace so far."""
    twins = [other.seconds for other in plan.trials if other.arm == trial.arm and other.seconds is not None]
    return sum(twins) / len(twins) if twins else sum(trial.expected.values()) * pace


def _row(
    trial: PlannedTrial, states: Mapping[Path, TrialState], left: Mapping[Path, float], waiting: float, now: float
) -> Row:
    if trial.seconds is not None or trial.failed:
        numbers = {} if trial.loss is None else {"held-out": trial.loss}
        stage = "failed" if trial.failed else "done"
        return Row(trial.arm, trial.seed, stage, 1.0, numbers, 0.0, is_running=False, is_done=True)
    state = states.get(trial.folder)
    if state is None:
        return Row(trial.arm, trial.seed, "waiting", 0.0, {}, waiting, is_running=False, is_done=False)
    passed, rest = now - state.started_at + _skipped_seconds(trial.expected, state), left[trial.folder]
    share = passed / (passed + rest) if passed + rest > 0 else 0.0
    return Row(trial.arm, trial.seed, state.stage, share, state.numbers, rest, is_running=True, is_done=False)


def _skipped_seconds(expected: Mapping[str, float], state: TrialState) -> float:
    """Seconds that the steps of an earlier process take at the pace of this one; as expected where it has none."""
    here = state.done - state.skipped
    passed = state.seconds.get(state.stage, 0.0)
    if here > 0 and passed > 0:
        return state.skipped * passed / here
    return expected.get(state.stage, 0.0) * state.skipped / state.total if state.total else 0.0


def _rest(expected: Mapping[str, float], state: TrialState, now: float) -> tuple[float, float]:
    """Seconds that a trial at work still needs, and the share of its expected work that this process has done."""
    order = list(expected)
    place = order.index(state.stage) if state.stage in order else 0
    before, after = order[:place], order[place + 1 :]
    seen = sum(state.seconds.get(name, 0.0) for name in before)
    # What an earlier process did took none of the time that is seen, so that it says nothing about the pace.
    believed = sum(expected[name] for name in before if name in state.seconds)
    to_do = max(0, state.total - state.skipped) if state.total else 0
    here = expected.get(state.stage, 0.0) * (to_do / state.total if state.total else 1.0)
    passed = state.seconds.get(state.stage, 0.0)
    share = min(1.0, (state.done - state.skipped) / to_do) if to_do else 0.0
    whole = here * _correction(seen, believed)
    if share:
        weight = min(1.0, share / SHARE_TO_BELIEVE)
        whole = weight * passed / share + (1 - weight) * whole
    rest = max(0.0, whole - passed - (now - state.written_at))
    pace = _correction(seen + passed, believed + share * here)
    total = sum(expected.values())
    done = (believed + share * here) / total if total else 0.0
    return rest + pace * sum(expected[name] for name in after), done


def _correction(seen: float, believed: float) -> float:
    """By how much work took longer than was expected of it; 1 where too little was seen to say so."""
    if believed <= 0 or seen < SECONDS_TO_BELIEVE:
        return 1.0
    return min(MOST_CORRECTION, max(1 / MOST_CORRECTION, seen / believed))


def describe_row(row: Row) -> str:
    """Say in a few words where a trial stands."""
    numbers = "".join(f", {name} {value:.4g}" for name, value in row.numbers.items())
    return f"{row.arm} seed {row.seed} {row.stage}{f' {row.share:.0%}' if row.is_running else ''}{numbers}"


def describe_progress(found: Outlook) -> str:
    """Say how many trials of a comparison are done, after how long, and how long the others take."""
    done = f"{sum(row.is_done for row in found.rows)} of {len(found.rows)} trials done"
    return f"{done} after {describe_seconds(found.passed)}, about {describe_seconds(found.left)} left"


def describe_outlook(found: Outlook) -> str:
    """Say in a line where a comparison stands, and each trial that is at work."""
    running = "; ".join(describe_row(row) for row in found.rows if row.is_running)
    return describe_progress(found) + (f" ({running})" if running else "")

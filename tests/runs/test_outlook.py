"""How long a comparison still takes: what was expected, corrected by what was seen."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.progress import stage
from newllm.runs.outlook import describe_outlook, look, outlook, side_by_side
from newllm.runs.progress import Plan, PlannedTrial, TrialState, read_plan, read_state, written_progress

EXPECTED = {"projection training": 20.0, "training": 100.0, "certificate": 10.0}
seconds = st.floats(0, 1e4)


def plan_of(count: int) -> Plan:
    trials = [PlannedTrial(arm="mla", seed=seed, folder=Path(str(seed)), expected=EXPECTED) for seed in range(count)]
    return Plan(started_at=0.0, processes=1, trials=tuple(trials))


@given(st.lists(seconds, max_size=4), st.lists(seconds, max_size=8), st.integers(1, 4))
def test_work_side_by_side_takes_no_less_than_its_longest_piece_and_no_more_than_one_after_another(
    running, waiting, processes
):
    running = running[:processes]
    total = side_by_side(running, waiting, processes)
    bound = max([*running, *waiting, (sum(running) + sum(waiting)) / processes])
    assert bound - 1e-6 <= total <= sum(running) + sum(waiting) + 1e-6


@given(st.integers(1, 6), st.floats(0.25, 4.0), st.floats(0.15, 1.0), st.sampled_from(list(EXPECTED)))
def test_a_trial_at_its_own_pace_is_foreseen(count, pace, share, name):
    """Where everything takes ``pace`` times what was expected, that is said once a part of it was seen."""
    before = sum(EXPECTED[earlier] for earlier in list(EXPECTED)[: list(EXPECTED).index(name)])
    now = pace * (before + share * EXPECTED[name])
    state = TrialState(
        stage=name,
        done=round(1000 * share),
        total=1000,
        seconds={stage: pace * EXPECTED[stage] for stage in EXPECTED} | {name: pace * share * EXPECTED[name]},
        started_at=0.0,
        written_at=now,
    )
    found = outlook(plan_of(count), {Path("0"): state}, now)
    assert found.rows[0].is_running
    # Of less than two seconds nothing is concluded.
    if now > 2:
        assert found.left == pytest.approx(count * pace * sum(EXPECTED.values()) - now, rel=0.05, abs=2)


@given(st.floats(0.0, 0.9), st.floats(0.02, 1.0), st.floats(0.5, 3.0))
def test_steps_of_an_earlier_process_do_not_count_as_speed(skipped, share, pace):
    """Of a training that goes on, the rest is foreseen from what this process has done of it."""
    before = round(1000 * skipped)
    done = before + round((1000 - before) * share)
    to_do = pace * EXPECTED["training"] * (1000 - before) / 1000
    passed = to_do * (done - before) / (1000 - before)
    state = TrialState(
        stage="training",
        done=done,
        total=1000,
        skipped=before,
        seconds={"training": passed},
        started_at=0.0,
        written_at=passed,
    )
    (row,) = outlook(plan_of(1), {Path("0"): state}, passed).rows
    expected = to_do - passed + pace * EXPECTED["certificate"]
    # Until enough was seen the pace is what was expected, and never that of steps that took no time.
    assert min(1, 1 / pace) * 0.9 * expected - 1 <= row.left <= max(1, 1 / pace) * 1.1 * expected + 1


@pytest.mark.parametrize(("passed", "shown"), [(0.0, 0.28), (4.0, 0.30)])
def test_a_training_that_goes_on_shows_its_share_of_the_whole(passed, shown):
    """What an earlier process did is part of the trial, whether this one has done a step yet or not."""
    done = 30 if passed else 28
    state = TrialState(
        stage="training",
        done=done,
        total=100,
        skipped=28,
        seconds={"training": passed},
        started_at=0.0,
        written_at=passed,
    )
    trial = PlannedTrial(arm="mla", seed=0, folder=Path("0"), expected={"training": 200.0})
    (row,) = outlook(Plan(started_at=0.0, processes=1, trials=(trial,)), {Path("0"): state}, passed).rows
    assert row.share == pytest.approx(shown, abs=0.02)


def test_a_stage_that_goes_on_says_how_much_was_done_before(tmp_path):
    with written_progress(tmp_path), stage("training", 100, done=60) as told:
        told.ended = True  # the last state of a stage is written at once
        told.advance(3)
        state = read_state(tmp_path)
    assert state is not None and (state.done, state.skipped) == (63, 60)


def test_other_seeds_take_as_long_as_the_one_that_is_done():
    plan = plan_of(3).ended(Path("0"), 50.0, loss=4.0)
    found = outlook(plan, {}, 60.0)
    assert found.left == pytest.approx(100.0)
    assert [row.stage for row in found.rows] == ["done", "waiting", "waiting"]
    assert "1 of 3 trials done after 1 min 00 s, about 1 min 40 s left" in describe_outlook(found)
    failed = outlook(plan.ended(Path("1"), 0.0, loss=None), {}, 60.0)
    assert failed.rows[1].stage == "failed" and failed.left == pytest.approx(50.0)


def test_what_a_trial_does_is_read_from_its_folder_while_it_does_it(tmp_path):
    folder = tmp_path / "mla-seed0"
    folder.mkdir()
    trial = PlannedTrial(arm="mla", seed=0, folder=folder, expected=EXPECTED)
    plan = Plan(started_at=0.0, processes=1, trials=(trial,))
    assert read_plan(tmp_path) is None
    with plan.written(tmp_path):
        with written_progress(folder), stage("training", 4) as told:
            told.ended = True  # the last state of a stage is written at once
            told.advance(3, train=2.5)
            found = look(plan)
            assert found.rows[0].stage == "training" and found.rows[0].numbers == {"train": 2.5}
            # What was begun before the comparison is what a killed process left.
            state = read_state(folder)
            assert state is not None
            later = plan.model_copy(update={"started_at": state.started_at + 1})
            assert look(later).rows[0].stage == "waiting"
        assert read_plan(tmp_path) == plan and read_plan(tmp_path, since=1.0) is None
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == [folder]


def test_a_plan_of_another_process_in_the_same_folder_stays_there(tmp_path):
    plan = plan_of(1)
    other = plan.model_copy(update={"started_at": 1.0})
    with plan.written(tmp_path):
        other.write(tmp_path)
    assert read_plan(tmp_path) == other

"""Times: each kind of trial is timed as it is trained."""

import functools
from typing import Any

import pytest

from newllm.experiments import timing
from newllm.experiments.recipes import RECIPES, Training
from newllm.experiments.timing import expected_stages
from newllm.progress import PROJECTION, TRAINING
from tests.comparison_setup import settings, trial_of


@pytest.mark.parametrize(("busy", "threads", "is_said"), [(100.0, 2, True), (0.0, 2, False), (100.0, 1, False)])
def test_other_work_on_the_cores_is_said_where_threads_wait_for_it(monkeypatch, caplog, busy, threads, is_said):
    monkeypatch.setattr(timing.psutil, "cpu_percent", lambda seconds: busy)
    timing._warn_of_other_work(threads)
    assert ("OMP_NUM_THREADS=1" in caplog.text) is is_said


def test_what_takes_time_is_estimated_as_it_is_trained(text_folder, text_data, tmp_path, monkeypatch):
    """By the model's own recipe, and with what the arm freezes frozen."""
    arms = ["dproj-oacd", "dproj-end-to-end-frozen-embedding", "cascade", "cascade-end-to-end@freeze_embedding=false"]
    asked: dict[str, tuple[bool, bool]] = {}

    def estimate(name: str, model: Any, *given: Any, **settings: Any) -> float:
        (blocks,), (embedding,) = (
            {parameter.requires_grad for parameter in part.parameters()}
            for part in (model.context_blocks, model.get_input_embeddings())
        )
        asked[f"{len(asked)} {name}"] = (blocks, embedding)
        return 1.0

    for recipe, training in RECIPES.items():
        monkeypatch.setitem(RECIPES, recipe, Training(training.train, functools.partial(estimate, recipe.name)))
    parameters = settings(text_folder, arms=arms)
    trials = [trial_of(arm, parameters, tmp_path) for arm in arms]
    expected = expected_stages([*trials, trials[0]], text_data, processes=1)
    assert [stages[TRAINING] for stages in expected.values()] == [1.0] * len(trials)
    assert [PROJECTION in stages for stages in expected.values()] == [True, False, True, False]
    assert all(seconds > 0 for stages in expected.values() for seconds in stages.values())
    assert asked == {
        "0 windows": (False, True),
        "1 windows": (True, False),
        "2 contexts of a continuous stream": (False, False),
        "3 contexts of a continuous stream": (True, True),
    }

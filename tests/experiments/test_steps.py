"""Steps of a pass, told without a model: as many as training takes."""

import math

import pytest

from newllm.config.notebooks import ReversalCurse
from newllm.config.profiles import load_parameters
from newllm.experiments import recipes
from newllm.experiments.arms import Arm
from newllm.experiments.comparison import compare
from newllm.experiments.steps import known_windows, steps_of_arm
from newllm.training import stream
from tests.comparison_setup import settings


def test_an_arm_takes_as_many_steps_as_are_told(text_folder, text_data, tmp_path, monkeypatch):
    arms = ["pythia", "cascade-random", "cascade-end-to-end"]
    parameters = settings(text_folder, arms=arms, epochs=1, stream_tokens=50, batch_size=7)
    told = [steps_of_arm(Arm.parse(arm), parameters, len(text_data.train)) for arm in arms]
    assert told == [4, 8, 8]
    taken = []

    def train(model, data, given, *more, _train=stream.train, **named):
        taken.append(math.ceil(len(data.train) / given.batch_size))
        return _train(model, data, given, *more, **named)

    monkeypatch.setattr(recipes, "train", train)
    monkeypatch.setattr(stream, "train", train)
    compare(parameters, text_data, tmp_path)
    assert taken == told


@pytest.mark.parametrize(("samples", "there"), [(32, 32), ("all", None)])
def test_windows_are_known_where_they_are_a_number_and_no_facts_are_among_them(samples, there):
    assert known_windows(load_parameters("02_main_training", "smoke", {"samples": samples})) == there
    facts = load_parameters("05_reversal_curse", "smoke", {"samples": samples})
    assert isinstance(facts, ReversalCurse)
    assert known_windows(facts) is None

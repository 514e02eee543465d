"""Values beyond their end: refused where they would make another run of the same training, and only there."""

import pytest

from newllm.config.errors import ParameterError
from newllm.config.groups import TrainingParameters
from newllm.config.profiles import load_parameters, notebooks_of
from newllm.experiments.idle import refuse_in_vain
from newllm.experiments.limits import refuse_endless_warmup
from newllm.experiments.planning import check_before_work
from newllm.training.callbacks import should_stop

ONE_STEP = {"samples": 8, "batch_size": 8, "warmup": 0.1}


def refuse(notebook, given, profile="smoke"):
    parameters = load_parameters(notebook, profile, given)
    check_before_work(parameters)
    refuse_in_vain(parameters, given)


@pytest.mark.parametrize("notebook", ["02_main_training", "03_causal_masks"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"patience": 5}, "^patience is 5, but training of 1 epoch ends before it could stop anything: .* 7 epochs"),
        ({"patience": 4, "epochs": 5}, "^patience is 4, but training of 5 epochs ends"),
        ({"evaluations": 9}, "^evaluations is 9, but a pass has 8 steps: give 8 at most, or leave it out.$"),
        ({"precision": "tf32", "device": "cpu"}, "^precision is tf32, which cpu has not"),
        ({"micro_batch_size": 9}, "^micro_batch_size is 9, but a step has 8 windows"),
        (ONE_STEP, r"warmup is 0.1, but that takes all of training \(1 step\)"),
    ],
)
def test_what_is_never_come_to_is_refused_in_every_notebook_that_trains(notebook, given, said):
    with pytest.raises(ParameterError, match=said):
        refuse(notebook, given)


@pytest.mark.parametrize(
    "given",
    [
        {"patience": 2, "epochs": 4},
        {"patience": 1, "epochs": 1},
        {"evaluations": 8},
        {"micro_batch_size": 8},
        {**ONE_STEP, "epochs": 2},
        {**ONE_STEP, "warmup": 0},
        {"samples": "all", "evaluations": 10**6},
    ],
)
def test_what_is_come_to_is_taken(given):
    refuse("02_main_training", given)
    refuse("03_causal_masks", given)


def test_a_patience_is_refused_where_no_losses_stop_before_the_last_pass():
    for patience in range(1, 6):
        rising = [float(number) for number in range(patience + 3)]
        first = next(length for length in range(1, 9) if should_stop(rising[:length], patience))
        assert first == patience + 1
        for epochs in range(1, 9):
            given = {"patience": patience, "epochs": epochs}
            if first < epochs or patience == 1:
                refuse("02_main_training", given, "quick")
            else:
                with pytest.raises(ParameterError, match=r"^patience is"):
                    refuse("02_main_training", given, "quick")


def test_what_a_profile_says_of_one_notebook_is_taken_by_all_of_them():
    """So is a published trial of windows of 512 trained again: its patience is that of notebook 08."""
    refuse("02_main_training", {"patience": 3, "samples": 2500, "batch_size": 2}, "cpu")
    for profile in ("cpu", "smoke", "quick"):
        for notebook in notebooks_of(profile):
            refuse(
                notebook, load_parameters(notebook, profile, {}).model_dump(mode="json", exclude={"profile"}), profile
            )


def test_an_arm_on_the_stream_has_steps_of_its_own():
    # Three stretches of 1,000 tokens; the baseline, which lends its embedding, has 8 steps.
    given = {"arms": ["cascade-random"], "evaluations": 8}
    refuse("02_main_training", given)
    with pytest.raises(ParameterError, match="a pass has 8 steps"):
        refuse("02_main_training", given | {"evaluations": 9})
    with pytest.raises(ParameterError, match=r"arm 'cascade-random': warmup is 0\.7"):
        refuse("02_main_training", {"arms": ["pythia", "cascade-random"], "warmup": 0.7})


def test_a_warmup_that_ends_with_the_last_step_is_refused():
    refuse_endless_warmup(TrainingParameters(epochs=2, warmup=0.5), 1)
    with pytest.raises(ValueError, match=r"all of training \(2 steps\)"):
        refuse_endless_warmup(TrainingParameters(epochs=2, warmup=0.6), 1)

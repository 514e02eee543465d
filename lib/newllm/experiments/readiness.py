"""What is refused of trials once their text is there, before the first of them is trained."""

from collections.abc import Sequence

from newllm.data import TextData
from newllm.evaluation.recall_report import refuse_too_many_passages
from newllm.experiments.limits import refuse_endless_warmup
from newllm.experiments.recipes import check_projection_checkpoint
from newllm.experiments.steps import steps_of_arm
from newllm.experiments.trial import Trial


def check_with_data(trials: Sequence[Trial], data: TextData) -> None:
    """Refuse trials that would fail when they are scored, or that would train nothing.

    Whoever runs trials asks this by `newllm.experiments.comparison.run_trials`, and earlier where something is done
    before.

    Parameters
    ----------
    trials
        What is to be run.
    data
        Their text.

    Raises
    ------
    ProjectionMismatchError, FileNotFoundError
        As `newllm.experiments.recipes.check_projection_checkpoint`.
    ValueError
        Where the test windows have no room for the repeated passages, or the warm-up takes all steps.
    """
    check_projection_checkpoint(trials, data)
    for trial in trials:
        refuse_too_many_passages(data.test, trial.parameters)
        steps = steps_of_arm(trial.arm, trial.parameters, len(data.train))
        refuse_endless_warmup(trial.parameters, steps, trial.arm.name)

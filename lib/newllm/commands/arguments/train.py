"""What ``newllm train`` takes."""

import argparse

from newllm.commands.arguments.assignments import add_assignments
from newllm.commands.arguments.run import refuse_unknown_model
from newllm.commands.shared import check_outputs, read_assignments, refuse_missing_text
from newllm.config.errors import ParameterError
from newllm.config.experiment import ExperimentParameters
from newllm.config.profiles import SHOWN, load_parameters, profiles

SUMMARY = "train one arm with one seed, on one device or on several"

EXAMPLES = """\
newllm train mla --profile cpu --seed 1 -p samples=2000
accelerate launch --num_processes 8 -m newllm train pythia --profile gpu --seed 0"""

WHEN_INTERRUPTED = "the same command goes on from the last checkpoint"

# Whose parameters these are.
NOTEBOOK = "02_main_training"

# What is not for -p, and what to do instead.
ELSEWHERE = {
    "arms": "the argument gives it",
    "seeds": "--seed gives it",
    "processes": "accelerate launch gives it",
    "output_folder": "the trial goes under outputs/train (NEWLLM_OUTPUTS moves it)",
    "rerun": "delete the folder of the trial, which is named at its end",
    "pretrained": "one arm is trained here; newllm run scores pretrained weights",
    "benchmarks": "newllm evaluate asks the trained model",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("arm", help="a model with its settings, such as mla@kv_dim=64")
    parser.add_argument("--profile", default=SHOWN, choices=profiles(), help=f"whose parameters ({SHOWN})")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and noise (0)")
    add_assignments(parser, "replace a parameter")


def check(options: argparse.Namespace) -> None:
    """Refuse unknown models and parameters, and impossible values."""
    refuse_unknown_model(options.arm)
    refuse_missing_text(planned_parameters(options).text_files or ())
    check_outputs()


def planned_parameters(options: argparse.Namespace) -> ExperimentParameters:
    """Return the checked parameters of the trial.

    Raises
    ------
    ParameterError
        If a parameter is unknown, has an impossible value, or has an option of its own.
    """
    given = read_assignments(options.parameters)
    for name in given:
        if name in ELSEWHERE:
            raise ParameterError(f"{name} is not for -p here: {ELSEWHERE[name]}.")
    parameters = load_parameters(NOTEBOOK, options.profile, given | {"arms": [options.arm], "seeds": [options.seed]})
    assert isinstance(parameters, ExperimentParameters)
    return parameters

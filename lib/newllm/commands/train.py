"""``newllm train``: one trial, in one process or in several that share each batch."""

import argparse
import logging
import os

from newllm.analysis.summary import summarize_arms
from newllm.commands.arguments.train import planned_parameters
from newllm.commands.shared import read_assignments
from newllm.commands.terminal_table import terminal_width
from newllm.commands.terminal_view import view_of_this_terminal
from newllm.config.errors import ParameterError
from newllm.config.experiment import ExperimentParameters
from newllm.data import NotEnoughTextError, prepare_data
from newllm.experiments.arms import Arm
from newllm.experiments.comparison import run_trials
from newllm.experiments.idle import refuse_in_vain
from newllm.experiments.planning import check_before_work
from newllm.experiments.reuse import take_over
from newllm.experiments.running import train_beside
from newllm.experiments.trial import Trial
from newllm.files import outputs_folder
from newllm.notebook.tables import show_arms
from newllm.processes import agreed, first_alone, is_first, joined, process_count
from newllm.runs.lock import RunError
from newllm.runs.records_table import load_records
from newllm.runs.watching import view_with
from newllm.runtime import choose_device

logger = logging.getLogger(__name__)

TRAIN_FOLDER = "train"


def main(options: argparse.Namespace) -> int:
    """Do ``newllm train``: train, score and record one arm with one seed."""
    try:
        parameters = planned_parameters(options)
        check_before_work(parameters)
        refuse_in_vain(parameters, read_assignments(options.parameters))
        with joined(choose_device(parameters.device)):
            if not is_first():
                logging.getLogger("newllm").setLevel(logging.ERROR)
            return _train(parameters)
    except (ValueError, RunError, NotEnoughTextError, OSError) as error:
        logger.error("%s", error)
        return 2


def _train(parameters: ExperimentParameters) -> int:
    arm = Arm.parse(parameters.arms[0]).as_trained(parameters)
    _refuse_what_cannot_be_shared(arm, parameters)
    logger.info("Processes that train: %d.", process_count())
    with first_alone():
        data = prepare_data(parameters)
    shared = parameters.model_copy(update={"arms": (), "seeds": ()})
    folder = outputs_folder() / TRAIN_FOLDER / f"{parameters.profile}-{shared.fingerprint()}"
    trial = Trial(arm, parameters.seeds[0], shared, folder, data.fingerprint)
    if is_first():
        # Most published trials lack their weights, and it is these that are asked for here.
        taken = take_over([trial], need_weights=True)
        if taken and trial.run().is_finished:
            logger.info("The trial was finished before, and is taken over from %s: nothing is trained.", taken[0])
        elif trial.run().is_finished:
            logger.info("The trial was finished before: nothing is trained.")
    if not agreed(trial.run().is_finished):
        if not is_first():
            train_beside(trial, data)
            return 0
        view_with(view_of_this_terminal)
        failures = run_trials([trial], data, folder, need_weights=True)
        if failures:
            logger.error("%s failed: %s (%s)", trial, failures[trial], trial.run().folder)
            return 1
    if is_first():
        records = load_records(folder)
        records = records[records["folder"] == trial.run().folder]
        logger.info("\n%s", show_arms(summarize_arms(records, None), None).text(terminal_width()))
        logger.info("%s", trial.run().folder)
    return 0


def _refuse_what_cannot_be_shared(arm: Arm, parameters: ExperimentParameters) -> None:
    if process_count() == 1:
        return
    if arm.reads_stream:
        raise ParameterError(
            f"{arm.name} is trained on one continuous stream, which {process_count()} processes cannot share: train it "
            "in one, and several such arms side by side by newllm sweep."
        )
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise ParameterError(
            "each process keeps the whole model: configure accelerate for several GPUs without FSDP and DeepSpeed."
        )
    if parameters.batch_size % process_count():
        raise ParameterError(
            f"batch_size is {parameters.batch_size}, which {process_count()} processes cannot share equally: start a "
            "number of processes that divides it."
        )

"""``newllm retrofit``: a trained model in, one with a smaller cache, its certificate and a report out."""

import argparse
import errno
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from newllm.commands.shared import read_assignments
from newllm.commands.terminal_table import as_text
from newllm.config.errors import ParameterError, explain, nearest
from newllm.config.groups import DataParameters, EvaluationParameters
from newllm.config.held_out import OF_SPLIT, refuse_known_text
from newllm.config.retrofit import RetrofitFiles, RetrofitParameters
from newllm.data.hub import HubUnavailableError
from newllm.files import SAVED_MODEL, UnwritableError, why_unwritable
from newllm.retrofit.report import FEW_COLUMNS, REPORT_FILE, report_table
from newllm.retrofit.running import MEASURED_BY, RetrofitPlan, run_retrofit
from newllm.runs.lock import RunError
from newllm.runs.saved_model import TrainedModel, find_saved_model, load_trained_model
from newllm.runs.sealed_record import record_beside
from newllm.runtime import usable_device

logger = logging.getLogger(__name__)
Group = TypeVar("Group", bound=BaseModel)
# Text of a user's that needs no split.
OF_FILES = ("calibration_file", "scored_file")
# Of the text, from the record of the trial that trained the model, where there is one.
OF_TRIAL = (
    *("source", "text_files", "samples", "seq_length", "val_samples", "test_samples"),
    *OF_SPLIT,
)

# What a system says of writing alone: no room on the disk or in a quota, a file too large for it, a disk to be read.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def main(options: argparse.Namespace) -> int:
    """Do ``newllm retrofit``."""
    try:
        device = usable_device(options.device)
        plan = _plan(options, load_trained_model(options.model))
        folder = options.output or plan.usual_folder()
        found = run_retrofit(plan, folder, device)
    except (ValueError, FileNotFoundError, RunError, HubUnavailableError) as error:
        logger.error("%s", error)
        return 2
    except FloatingPointError as error:
        logger.error("%s Of a retrofit that is healing_lr.", error)
        return 1
    except OSError as error:
        if isinstance(error, UnwritableError):
            logger.error("%s", error)
        elif error.errno in NO_ROOM:
            logger.error("%s", why_unwritable(folder, error))
        else:
            raise
        return 1
    logger.info("\n%s\n", as_text(report_table(pd.DataFrame(found["report"]))[list(FEW_COLUMNS)]))
    logger.info("The model is in %s, the report with all measures in %s.", folder / SAVED_MODEL, folder / REPORT_FILE)
    return 0


def _plan(options: argparse.Namespace, trained: TrainedModel) -> RetrofitPlan:
    """Read the settings; of the text, what is not said is that of the trial that trained the model."""
    given = read_assignments(options.parameters)
    groups = (RetrofitParameters, DataParameters, RetrofitFiles)
    known = [*(name for group in groups for name in group.model_fields), *MEASURED_BY]
    refused = {"method": "--to", "tokenizer": "the model, whose own it is"}
    for key in given:
        if key in refused:
            raise ParameterError(f"{key} is given by {refused[key]}: leave it out.")
        if key not in known:
            raise ParameterError(f"{key} is not a parameter of a retrofit{nearest(key, known)}")
    said = {key: value for key, value in given.items() if value is not None}
    parameters = _read(RetrofitParameters, {**said, "method": options.method}, given, "a retrofit")
    folder = find_saved_model(options.model)
    trained_on = _trial_of(folder)
    if said.keys() & OF_FILES:
        unread = sorted(said.keys() & (DataParameters.model_fields.keys() - RetrofitFiles.model_fields.keys()))
        if unread:
            raise ParameterError(f"{unread[0]} does nothing beside {' and '.join(OF_FILES)}: leave it out.")
        # In windows of the length that the model was trained on, where that is known.
        usual = {"seq_length": trained_on["seq_length"]} if "seq_length" in trained_on else {}
        text: DataParameters | RetrofitFiles = _read(RetrofitFiles, usual | said, given, "the text")
    else:
        text = _read(DataParameters, _text_of_source(said, parameters, trained_on, folder), given, "the text")
    return RetrofitPlan(
        parent=trained,
        name=Path(str(options.model).rstrip("/")).name,
        parameters=parameters,
        text=text,
        evaluation=_read(EvaluationParameters, said, given, "what is measured"),
        seed=options.seed,
        trained_on=trained_on or None,
    )


def _text_of_source(
    said: Mapping[str, Any], parameters: RetrofitParameters, trained_on: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Complete what is said of a source by what the trial read.

    Raises
    ------
    ValueError
        Where nobody says what to read, or what the model was trained on would be held out.
    """
    if "source" not in said and "source" not in trained_on:
        raise ParameterError(
            "nothing says which text to read: give calibration_file and scored_file, or a source (-p source=text "
            "-p text_files=...)."
        )
    refuse_known_text(said, trained_on)
    of_trial = set(OF_TRIAL)
    if said.get("source", trained_on.get("source")) != trained_on.get("source"):
        of_trial.discard("text_files")
    text = {name: trained_on[name] for name in of_trial if trained_on.get(name) is not None} | dict(said)
    length = parameters.seq_length or trained_on.get("seq_length")
    if length and text.get("samples") != "all" and "samples" not in said:
        # To calibrate on, to heal on, and to know which pairs of tokens the parent has seen in training.
        text["samples"] = max(parameters.windows_to_learn(length), text.get("samples", 0))
    return text | {"tokenizer": str(folder / "tokenizer.json")}


def _read(group: type[Group], values: Mapping[str, Any], given: Mapping[str, Any], what: str) -> Group:
    """Read one group of parameters from values that may belong to others, too."""
    try:
        return group(**{name: value for name, value in values.items() if name in group.model_fields})
    except ValidationError as error:
        raise ParameterError(explain(error, group, what, given, None, option="-p")) from error


def _trial_of(folder: Path) -> dict[str, Any]:
    """Return the parameters of the trial that trained a saved model; none where it is no trial's."""
    record = record_beside(folder)
    return {} if record is None else record.parameters

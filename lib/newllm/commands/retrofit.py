"""``newllm retrofit``: a trained model in, one with a smaller cache, its certificate and a report out."""

import argparse
import logging
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from newllm.commands.shared import as_text, read_assignments
from newllm.config.errors import ParameterError, explain, nearest
from newllm.config.groups import DataParameters
from newllm.config.retrofit import RetrofitParameters
from newllm.data import prepare_data
from newllm.data.hub import HubUnavailableError
from newllm.evaluation.causality import certify
from newllm.files import SAVED_MODEL, digest_of_json, outputs_folder, read_json, write_atomically, write_json
from newllm.models.methods.pythia import PythiaModel
from newllm.retrofit.report import REPORT_FILE, RESULT_FILE, report_table
from newllm.retrofit.stages import convert
from newllm.runs.provenance import Provenance
from newllm.runs.record import RECORD_FILE, read_record
from newllm.runs.saved_model import TrainedModel, find_saved_model, load_trained_model
from newllm.runs.saving import save_trained_model
from newllm.runtime import move, usable_device

logger = logging.getLogger(__name__)
HEALING = "healing"
# Of the text, from the record of the trial that trained the model, where there is one.
OF_TRIAL = ("source", "text_files", "seq_length", "validation_percent", "test_percent")


def main(options: argparse.Namespace) -> int:
    """Do ``newllm retrofit``."""
    try:
        device = usable_device(options.device)
        trained = load_trained_model(options.model)
        if type(trained.model) is not PythiaModel:
            raise ValueError(
                f"{options.model} is a {trained.method}, which is not retrofitted: give a pythia or llama."
            )
        parameters, data_parameters = _parameters(options, trained)
        described: dict[str, Any] = {
            "weights": trained.digest,
            "parameters": parameters.model_dump(mode="json"),
            "text": data_parameters.model_dump(mode="json", exclude={"tokenizer"}),
            "seed": options.seed,
        }
        folder = options.output or _usual_folder(options, described)
        finished = _finished(folder, described)
        if finished is None:
            finished = _convert(trained, parameters, data_parameters, folder, described, options.seed, device)
    except (ValueError, FileNotFoundError, HubUnavailableError) as error:
        logger.error("%s", error)
        return 2
    logger.info("\n%s\n", as_text(report_table(pd.DataFrame(finished["report"]))))
    logger.info("The model is in %s, the report in %s.", folder / SAVED_MODEL, folder / REPORT_FILE)
    return 0


def _parameters(options: argparse.Namespace, trained: TrainedModel) -> tuple[RetrofitParameters, DataParameters]:
    """Read the settings; of the text, what is not said is that of the trial that trained the model."""
    given = read_assignments(options.parameters)
    known = [*RetrofitParameters.model_fields, *DataParameters.model_fields]
    refused = {"method": "--to", "tokenizer": "the model, whose own it is"}
    for key in given:
        if key in refused:
            raise ParameterError(f"{key} is given by {refused[key]}: leave it out.")
        if key not in known:
            raise ParameterError(f"{key} is not a parameter of a retrofit{nearest(key, known)}")
    where = f"newllm retrofit {options.model}"
    of_retrofit = {
        key: value for key, value in given.items() if key in RetrofitParameters.model_fields and value is not None
    }
    try:
        parameters = RetrofitParameters(**{"method": options.method, **of_retrofit})
    except ValidationError as error:
        raise ParameterError(explain(error, RetrofitParameters, "a retrofit", given, where, option="-p")) from error
    folder = find_saved_model(options.model)
    of_text = {**_text_of_trial(folder), **{key: value for key, value in given.items() if value is not None}}
    length = int(of_text.get("seq_length", 0) or 0)
    if length:
        # As many windows as are read: to calibrate on, and to heal on.
        of_text.setdefault("samples", max(parameters.calibration_windows, -(-parameters.healing_tokens // length)))
    of_text = {key: value for key, value in of_text.items() if key in DataParameters.model_fields}
    try:
        return parameters, DataParameters(**{**of_text, "tokenizer": str(folder / "tokenizer.json")})
    except ValidationError as error:
        raise ParameterError(explain(error, DataParameters, "the text", given, where, option="-p")) from error


def _text_of_trial(folder: Path) -> dict[str, Any]:
    """Return the parameters of the text that a trial's model was trained on; none where the model is no trial's."""
    if not (folder.parent / RECORD_FILE).is_file():
        return {}
    written = read_record(folder.parent).parameters
    return {name: written[name] for name in OF_TRIAL if written.get(name) is not None}


def _usual_folder(options: argparse.Namespace, described: dict[str, Any]) -> Path:
    name = Path(str(options.model).rstrip("/")).name
    return outputs_folder() / "retrofit" / f"{name}-{options.method}-{digest_of_json(described)[:8]}"


def _finished(folder: Path, described: dict[str, Any]) -> dict[str, Any] | None:
    """Read what an earlier call finished; ValueError where the folder holds another retrofit."""
    if not (folder / RESULT_FILE).is_file():
        return None
    written = read_json(folder / RESULT_FILE)
    if written.get("described") != described:
        raise ValueError(f"{folder} holds another retrofit: give another --output.")
    logger.info("%s is finished.", folder)
    return written


def _convert(
    trained: TrainedModel,
    parameters: RetrofitParameters,
    data_parameters: DataParameters,
    folder: Path,
    described: dict[str, Any],
    seed: int,
    device: Any,
) -> dict[str, Any]:
    """Convert, certify and save; the result is written last, so that what it stands beside is whole."""
    data = prepare_data(data_parameters)
    move(trained.model, device)
    assert isinstance(trained.model, PythiaModel)
    converted, report = convert(trained.model, data, parameters, folder=folder / HEALING, seed=seed)
    certificate = certify(converted)
    if not certificate.passed:
        raise ValueError(f"the converted model does not pass the causality certificate: {certificate.failures()[0]}")
    save_trained_model(folder / SAVED_MODEL, converted, trained.tokenizer)
    write_atomically(folder / REPORT_FILE, report.to_csv(index=False))
    rows = report.astype(object).where(report.notna(), None).to_dict("records")
    result = {
        "described": described,
        "certificate": certificate.max_change,
        "report": rows,
        "provenance": Provenance.collect().model_dump(mode="json"),
    }
    write_json(folder / RESULT_FILE, result)
    return result

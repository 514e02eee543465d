"""The arm of a notebook that was trained, converted in every way that is asked for, a run each."""

import logging
from pathlib import Path

import torch

from newllm.config.groups import DataParameters, EvaluationParameters
from newllm.config.notebooks import RetrofitNotebook
from newllm.config.retrofit import RetrofitFiles
from newllm.experiments.arms import Arm
from newllm.files import is_local_model, outputs_folder, reference_folder, why_no_model
from newllm.models.methods.pythia import PythiaConfig, PythiaModel
from newllm.models.registry import find
from newllm.retrofit.planning import check
from newllm.retrofit.report import Scores
from newllm.retrofit.running import RetrofitPlan, run_retrofit
from newllm.retrofit.text_files import check_files
from newllm.runs.folder import Run, finished_runs
from newllm.runs.saved_model import check_pretrained, find_saved_model, load_trained_model
from newllm.runs.sealed_record import record_beside
from newllm.runtime import choose_device

logger = logging.getLogger(__name__)
# Tokens of the windows that a Llama is scored on.
LLAMA_WINDOW = 512
# Windows that it is calibrated on: 12,288 tokens.
LLAMA_CALIBRATION = 24


def check_retrofits(parameters: RetrofitNotebook) -> None:
    """Refuse what the arms cannot become, before anything is trained.

    Raises
    ------
    ValueError, FileNotFoundError
        In one sentence.
    """
    for text in parameters.arms:
        arm = Arm.parse(text)
        if find(arm.method).model_class is not PythiaModel:
            raise ValueError(f"arm {text!r} is not converted: give a pythia or a llama as the parent")
        config = arm.configure(parameters)
        assert isinstance(config, PythiaConfig)
        for asked in parameters.retrofits:
            check(config, parameters.read_retrofit(asked))
    files = _llama_files(parameters)
    if files is not None:
        check_files(files)
    if parameters.llama is not None:
        _check_llama(str(parameters.llama))


def _check_llama(where: str) -> None:
    """Refuse a Llama that is not here, and cannot be one of the hub, or that cannot be read."""
    reason = why_no_model(where)
    if reason is not None:
        raise ValueError(f"llama is {where!r}: {reason}")
    if is_local_model(where):
        check_pretrained(where)


def run_retrofits(
    parent: str | Path, parameters: RetrofitNotebook, folder: Path, text: DataParameters | RetrofitFiles
) -> list[Path]:
    """Convert a trained model in every way that is asked for; what is finished is read, what was published taken over.

    A retrofit that is taken over has its report and no weights.

    Parameters
    ----------
    parent
        As for `newllm.runs.saved_model.find_saved_model`.
    parameters
        Name the retrofits, the tokens of their healing, and its seeds.
    folder
        Holds their folders.
    text
        What they are calibrated, healed and scored on.

    Returns
    -------
    list of Path
        The folder of each.
    """
    device = torch.device(choose_device(parameters.device))
    elsewhere = {} if parameters.rerun else finished_runs(outputs_folder(), reference_folder())
    plans = {folder / plan.folder_name: plan for plan in plan_retrofits(parent, parameters, text)}
    waiting = []
    for place, plan in plans.items():
        run = Run(place, plan.identity())
        run.take_over(elsewhere)
        if not run.is_finished:
            waiting.append(place)
    if len(waiting) < len(plans):
        logger.info("%d of %d retrofits were finished before.", len(plans) - len(waiting), len(plans))
    scores = Scores()
    for place in waiting:
        run_retrofit(plans[place], place, device, scores)
    return list(plans)


def plan_retrofits(
    parent: str | Path, parameters: RetrofitNotebook, text: DataParameters | RetrofitFiles
) -> list[RetrofitPlan]:
    """Plan what `run_retrofits` makes, budget by budget and seed by seed.

    Parameters
    ----------
    parent, parameters, text
        As for `run_retrofits`.
    """
    trained, model = load_trained_model(parent), find_saved_model(parent)
    record = record_beside(model)
    known = None if record is None else record.parameters
    evaluation = EvaluationParameters(**{name: getattr(parameters, name) for name in EvaluationParameters.model_fields})
    if not isinstance(text, RetrofitFiles):
        text = DataParameters(**{name: getattr(text, name) for name in DataParameters.model_fields})
    return [
        RetrofitPlan(
            trained,
            Path(parent).name,
            parameters.read_retrofit(asked, tokens),
            text,
            evaluation,
            seed=seed,
            trained_on=known,
        )
        for tokens in parameters.healing_tokens
        # Without healing a seed decides the random control alone.
        for seed in (parameters.healing_seeds if tokens else parameters.healing_seeds[:1])
        for asked in parameters.retrofits
    ]


def run_llama_retrofits(llama: Path, parameters: RetrofitNotebook, folder: Path) -> list[Path]:
    """Convert a trained Llama in every way that is asked for, without healing.

    Parameters
    ----------
    llama
        A GGUF file, or the folder of a saved model.
    parameters
        Name its retrofits, and the files that it is calibrated and scored on, or else a source.
    folder
        Holds their folders.

    Returns
    -------
    list of Path
        The folder of each.
    """
    asked = parameters.model_copy(
        update={
            "retrofits": parameters.llama_retrofits,
            "healing_tokens": (0,),
            "calibration_windows": LLAMA_CALIBRATION,
            "repeated_passages": parameters.llama_passages,
        }
    )
    text = _llama_files(parameters) or DataParameters(
        source=parameters.source,
        text_files=parameters.text_files,
        tokenizer=str(find_saved_model(llama) / "tokenizer.json"),
        samples=LLAMA_CALIBRATION,
        seq_length=LLAMA_WINDOW,
        val_samples=1,
        test_samples=parameters.llama_windows,
    )
    return run_retrofits(llama, asked, folder, text)


def _llama_files(parameters: RetrofitNotebook) -> RetrofitFiles | None:
    """Return the files that a Llama is calibrated and scored on; None where a source is read."""
    if parameters.llama_calibration_file is None or parameters.llama_scored_file is None:
        return None
    return RetrofitFiles(
        calibration_file=parameters.llama_calibration_file,
        scored_file=parameters.llama_scored_file,
        scored_windows=parameters.llama_windows,
        seq_length=LLAMA_WINDOW,
    )

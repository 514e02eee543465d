"""The arm of a notebook that was trained, converted in every way that is asked for, a run each."""

import logging
from pathlib import Path

import torch

from newllm.config.groups import DataParameters, EvaluationParameters
from newllm.config.notebooks import RetrofitNotebook
from newllm.experiments.arms import Arm
from newllm.files import outputs_folder, reference_folder
from newllm.models.methods.pythia import PythiaConfig, PythiaModel
from newllm.models.registry import find
from newllm.retrofit.planning import check
from newllm.retrofit.running import RetrofitPlan, run_retrofit
from newllm.runs.folder import Run, finished_runs
from newllm.runs.record import RECORD_FILE, read_record
from newllm.runs.saved_model import find_saved_model, load_trained_model
from newllm.runtime import choose_device

logger = logging.getLogger(__name__)


def check_retrofits(parameters: RetrofitNotebook) -> None:
    """Refuse what the arms cannot become, before anything is trained.

    Raises
    ------
    ValueError
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


def run_retrofits(parent: str | Path, parameters: RetrofitNotebook, folder: Path, text: DataParameters) -> list[Path]:
    """Convert a trained model in every way that is asked for; what is finished is read, what was published taken over.

    A retrofit that is taken over has its report and no weights.

    Parameters
    ----------
    parent
        As for `newllm.runs.saved_model.find_saved_model`.
    parameters
        Name the retrofits, and the seeds of their healing.
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
    for place in waiting:
        run_retrofit(plans[place], place, device)
    return list(plans)


def plan_retrofits(parent: str | Path, parameters: RetrofitNotebook, text: DataParameters) -> list[RetrofitPlan]:
    """Plan what `run_retrofits` makes, seed by seed.

    Parameters
    ----------
    parent, parameters, text
        As for `run_retrofits`.
    """
    trained, model = load_trained_model(parent), find_saved_model(parent)
    known = read_record(model.parent).parameters if (model.parent / RECORD_FILE).is_file() else None
    evaluation = EvaluationParameters(**{name: getattr(parameters, name) for name in EvaluationParameters.model_fields})
    of_text = DataParameters(**{name: getattr(text, name) for name in DataParameters.model_fields})
    return [
        RetrofitPlan(
            trained,
            Path(parent).name,
            parameters.read_retrofit(asked),
            of_text,
            evaluation,
            seed=seed,
            trained_on=known,
        )
        # Without healing a seed decides the random control alone.
        for seed in (parameters.seeds if parameters.healing_tokens else parameters.seeds[:1])
        for asked in parameters.retrofits
    ]

"""A retrofit as a run: one folder with the model, its certificate and its report; what was killed goes on."""

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from newllm.config.groups import DataParameters, EvaluationParameters
from newllm.config.retrofit import RetrofitFiles, RetrofitParameters
from newllm.data import prepare_data
from newllm.data.sides import TextSides
from newllm.evaluation.causality import certify
from newllm.evaluation.continuations import continue_prompts
from newllm.files import SAVED_MODEL, digest_of_json, outputs_folder, read_json, write_json
from newllm.models.methods.pythia import PythiaModel
from newllm.retrofit.parents import config_of
from newllm.retrofit.planning import check
from newllm.retrofit.report import LOSSES_FILE, REPORT_FILE, RESULT_FILE, Scores
from newllm.retrofit.stages import SCORES_FOLDER, Retrofit, convert
from newllm.retrofit.text import check_amounts
from newllm.retrofit.text_files import identify_files, read_files
from newllm.runs.folder import Run
from newllm.runs.provenance import Provenance
from newllm.runs.saved_model import TrainedModel
from newllm.runs.saving import save_trained_model
from newllm.runtime import move, no_progress_bar
from newllm.wording import count

logger = logging.getLogger(__name__)
RETROFITS_FOLDER = "retrofit"
HEALING_FOLDER = "healing"

# Parameters of `EvaluationParameters` that decide what a report says; others ask for what it does not have.
MEASURED_BY = ("prompts", "continuation_tokens", "repeat_distances", "repeated_passages")

# Digits of losses in the file that is published.
LOSS_DIGITS = 6


@dataclass(frozen=True)
class RetrofitPlan:
    """What becomes of which model, on which text.

    Attributes
    ----------
    parent
        The trained model.
    name
        What the folder of the run is named after.
    parameters
        What becomes of the model.
    text
        What it is calibrated, healed and scored on.
    evaluation
        How recall is measured, and what is continued.
    seed
        Of healing and of the random control.
    trained_on
        Parameters of the trial that trained the model; None where that is not known.
    """

    parent: TrainedModel
    name: str
    parameters: RetrofitParameters
    text: DataParameters | RetrofitFiles
    evaluation: EvaluationParameters
    seed: int = 0
    trained_on: dict[str, Any] | None = None

    def identity(self) -> dict[str, Any]:
        """Return, as plain JSON values, what decides the result; refuses files that cannot be read."""
        return {
            "model": self.parent.digest,
            "parameters": self.parameters.model_dump(mode="json"),
            "text": self._text_identity(),
            "evaluation": self.evaluation.model_dump(mode="json", include=set(MEASURED_BY)),
            "seed": self.seed,
        }

    def _text_identity(self) -> dict[str, Any]:
        if isinstance(self.text, RetrofitFiles):
            return identify_files(self.text)
        # The tokenizer is the parent's, wherever its file is.
        return self.text.model_dump(mode="json", exclude={"tokenizer"})

    def read_text(self) -> TextSides:
        """Read the windows; errors as `newllm.data.prepare_data` and `newllm.retrofit.text_files.read_files` say.

        Raises
        ------
        ValueError
            As `newllm.retrofit.text.check_amounts`.
        """
        text: TextSides
        if isinstance(self.text, RetrofitFiles):
            text = read_files(self.text, self.parent.tokenizer, self.parameters)
        else:
            text = prepare_data(self.text)
        check_amounts(text, self.parameters, self.evaluation)
        return text

    @property
    def folder_name(self) -> str:
        """Name of its folder: after the model, what becomes of it, and everything else."""
        return f"{self.name}-{self.parameters.method}-{digest_of_json(self.identity())[:8]}"

    def usual_folder(self) -> Path:
        """Return its folder among the outputs."""
        return outputs_folder() / RETROFITS_FOLDER / self.folder_name


def check_plan(plan: RetrofitPlan) -> PythiaModel:
    """Refuse what cannot be, before any text is read; return the parent by its type.

    Raises
    ------
    ValueError
        In one sentence.
    """
    parent = plan.parent.model
    if type(parent) is not PythiaModel:
        raise ValueError(f"{plan.name} is a {plan.parent.method}, which is not retrofitted: give a pythia or llama.")
    check(config_of(parent), plan.parameters)
    return parent


def run_retrofit(
    plan: RetrofitPlan, folder: Path, device: torch.device, scores: Scores | None = None
) -> dict[str, Any]:
    """Convert, heal, certify and save a model; what is finished is read, what was killed goes on.

    The folder then holds ``retrofit.json`` (report, certificate, continuations, provenance), ``report.csv``,
    ``window_losses.json`` and ``model``, which ``from_pretrained`` loads with its tokenizer.

    Parameters
    ----------
    plan
        What becomes of which model.
    folder
        Of the run.
    device
        Where to compute.
    scores
        Those of models that were scored before, which are not scored again.

    Returns
    -------
    dict
        What ``retrofit.json`` says.

    Raises
    ------
    ValueError
        Where the plan cannot be, or the result does not pass the causality certificate.
    newllm.runs.lock.RunError
        Where the folder holds something else.
    """
    parent = check_plan(plan)
    run = Run(folder, plan.identity())
    if run.is_finished:
        logger.info("%s is finished.", folder)
        return read_json(folder / RESULT_FILE)
    text = plan.read_text()
    with run.work():
        if run.is_finished:  # Another process may have finished it while this one waited.
            return read_json(folder / RESULT_FILE)
        run.start()
        run.remove_leftovers()
        start = time.perf_counter()
        move(parent, device)
        before = dict(continue_prompts(parent, plan.parent.tokenizer, plan.evaluation))
        healing = folder / HEALING_FOLDER
        known = len(list((healing / SCORES_FOLDER).glob("*.json")))
        if known:
            logger.info("Going on with what was interrupted: %s known.", count(known, "score"))
        found = convert(parent, text, plan.parameters, plan.evaluation, folder=healing, seed=plan.seed, scores=scores)
        _write(plan, found, before, text, run)
        shutil.rmtree(healing, ignore_errors=True)
        run.finish(time.perf_counter() - start)
    return read_json(folder / RESULT_FILE)


def _write(plan: RetrofitPlan, found: Retrofit, before: dict[str, str], text: TextSides, run: Run) -> None:
    """Certify the new model, and write all that a retrofit leaves."""
    certificate = certify(found.model)
    if not certificate.passed:
        raise ValueError(f"the converted model does not pass the causality certificate: {certificate.failures()[0]}")
    after = dict(continue_prompts(found.model, plan.parent.tokenizer, plan.evaluation))
    with no_progress_bar():
        save_trained_model(run.folder / SAVED_MODEL, found.model, plan.parent.tokenizer)
    run.write_text(REPORT_FILE, found.report.to_csv(index=False))
    losses = {stage: losses.round(LOSS_DIGITS).tolist() for stage, losses in found.window_losses.items()}
    run.write_json(LOSSES_FILE, {"window_losses": losses, "window_groups": text.test.document_groups.tolist()})
    rows = found.report.astype(object).where(found.report.notna(), None).to_dict("records")
    write_json(
        run.folder / RESULT_FILE,
        {
            "described": plan.identity() | {"parent": plan.name, "data": text.fingerprint},
            "trained_on": plan.trained_on,
            "report": rows,
            "certificate": certificate.max_change,
            "parameter_count": found.model.num_parameters(),
            "continuations": [
                {"prompt": prompt, "before": text, "after": after[prompt]} for prompt, text in before.items()
            ],
            "provenance": Provenance.collect().model_dump(mode="json"),
        },
    )

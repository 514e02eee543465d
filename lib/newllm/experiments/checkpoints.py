"""Trained models that are only scored, among the arms (``checkpoint:<folder>``) or beside them (``pretrained``)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from newllm.config.experiment import ExperimentParameters
from newllm.config.groups import DataParameters, TrainingParameters
from newllm.config.held_out import refuse_known_text
from newllm.config.methods import CHECKPOINT_PREFIX
from newllm.data import TextData
from newllm.experiments.arms import begins_lent, folder_name
from newllm.experiments.running import record_scores
from newllm.experiments.scoring import Subject, pretrained_arm
from newllm.files import SAVED_MODEL, local_folder, local_gguf, outputs_folder, read_json, reference_folder
from newllm.retrofit.report import RESULT_FILE
from newllm.runs.folder import Run, finished_runs
from newllm.runs.record import Record
from newllm.runs.saved_model import check_pretrained, find_saved_model, load_trained_model, model_digest
from newllm.runs.sealed_record import record_beside
from newllm.runtime import choose_device, move

# Parameters of a record that say what a model was trained with, and which shape it has.
OF_TRAINING = (*TrainingParameters.model_fields, "size")


@dataclass(frozen=True)
class Lineage:
    """Where a saved model comes from, as far as what lies beside it says.

    Attributes
    ----------
    trained_on
        Parameters of the record of the trial that trained it, or what it was made from; none where nobody knows.
    healing_tokens
        Tokens that a retrofit was healed on.
    healed_on
        Parameters of the text that a retrofit was made with; none where it was not healed, or is none.
    """

    trained_on: dict[str, Any]
    healing_tokens: int = 0
    healed_on: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Path) -> "Lineage":
        """Read what lies beside the folder of a saved model."""
        record, run = record_beside(model), model.parent
        if record is not None:
            return cls(record.parameters)
        if (run / RESULT_FILE).is_file():
            found = read_json(run / RESULT_FILE)
            # Of the last stage, whose model is saved.
            *_, tokens = (row["healing_tokens"] for row in found["report"] if not row["control"])
            return cls(found["trained_on"] or {}, tokens, found["described"]["text"] if tokens else {})
        return cls({})

    @property
    def seed(self) -> int:
        """Seed of the trial, beside whose other arms it stands; 0 where it is no trial's."""
        return int(self.trained_on.get("seeds", [0])[0])

    def is_trained_on(self, data: TextData) -> bool:
        """Tell whether the trial that trained it read the training windows of these, cut alike."""
        windows = {"data": data.fingerprint, "seq_length": data.train.seq_length}
        return all(self.trained_on.get(name) == value for name, value in windows.items())

    def refuse_known_text(self, parameters: DataParameters) -> None:
        """Refuse a text of which the model has learned what would be held out, by a ValueError that names the share."""
        asked = {name: getattr(parameters, name) for name in DataParameters.model_fields}
        for learned in (self.trained_on, self.healed_on):
            refuse_known_text(asked, learned)


@dataclass(frozen=True)
class Checkpoint:
    """A trained model that stands among the arms of a comparison, or beside them.

    Attributes
    ----------
    where
        Folder of a retrofit, of a trial or of a saved model, a GGUF file, or a hub id.
    is_pretrained
        Whether it stands beside the arms, as weights that were trained elsewhere.
    """

    where: str
    is_pretrained: bool = False

    @property
    def name(self) -> str:
        """The row's name: that of its folder or file, wherever it lies, or the hub id."""
        if self.is_pretrained:
            return pretrained_arm(self.where)
        folder, file = local_folder(self.where), local_gguf(self.where)
        if folder is None:
            return CHECKPOINT_PREFIX + (self.where if file is None else file.stem)
        return CHECKPOINT_PREFIX + (folder.parent if folder.name == SAVED_MODEL else folder).absolute().name

    def run(self, parameters: ExperimentParameters, data: TextData, folder: Path) -> Run:
        """Open the run of its scores: other weights, or the same on other windows, have another.

        Raises
        ------
        ValueError
            Where the model was trained on some of the documents that are held out here.
        """
        model = find_saved_model(self.where)
        digest, lineage = model_digest(model), Lineage.of(model)
        lineage.refuse_known_text(parameters)
        known = parameters.trial_identity(self.name, lineage.seed, trains_projection=False, reads_stream=False)
        identity = {key: value for key, value in known.items() if key not in OF_TRAINING}
        # Trained on other text, or in other windows of it, is trained otherwise: then nothing is said of it.
        if lineage.is_trained_on(data):
            identity |= {key: lineage.trained_on[key] for key in OF_TRAINING if key in lineage.trained_on}
        if begins_lent(lineage.trained_on.get("arms", ())):
            identity["lent_embedding"] = True
        identity |= {"data": data.fingerprint, "model": digest, "healing_tokens": lineage.healing_tokens}
        return Run(folder / f"{folder_name(self.name)}-{digest[:8]}", identity)


def checkpoints_of(parameters: ExperimentParameters) -> list[Checkpoint]:
    """Return the arms that are trained models, and behind them the pretrained ones."""
    arms = [
        Checkpoint(arm.removeprefix(CHECKPOINT_PREFIX)) for arm in parameters.arms if arm.startswith(CHECKPOINT_PREFIX)
    ]
    return arms + [Checkpoint(source, is_pretrained=True) for source in parameters.pretrained or ()]


def refuse_twins(names: Sequence[str], rows: Sequence[str], what: str) -> None:
    """Refuse trained models that would have one row; ValueError says which."""
    twice = [row for row in rows if rows.count(row) > 1]
    if twice:
        raise ValueError(f"{what} is {list(names)}, of which two would have the row {twice[0]}: rename a folder")


def score_checkpoint(checkpoint: Checkpoint, parameters: ExperimentParameters, data: TextData, folder: Path) -> Record:
    """Evaluate, certify and record a trained model on the windows of a comparison; equal scores are taken over.

    Parameters
    ----------
    checkpoint
        The model.
    parameters
        Of the comparison.
    data
        Its windows.
    folder
        Holds the folders of the trials; this one's is named after the checkpoint.

    Raises
    ------
    LoadingError
        Where the weights cannot be read whole, or belong to another tokenizer than the windows.
    HubUnavailableError
        The hub did not answer.
    CertificateError
        Where the model does not pass the causality certificate.
    ValueError
        Where it was trained on some of the documents that are held out here.
    """
    check_pretrained(checkpoint.where, data.tokenizer)
    run = checkpoint.run(parameters, data, folder)
    if not run.is_finished and not parameters.rerun:
        run.take_over(finished_runs(outputs_folder(), reference_folder()))
    if run.is_finished:
        return run.record()
    loaded = load_trained_model(checkpoint.where)
    with run.work():
        if run.is_finished:  # Another process may have finished it while this one waited.
            return run.record()
        run.start()
        start = time.perf_counter()
        move(loaded.model, choose_device(parameters.device))
        subject = Subject(checkpoint.name, loaded.method, run.identity["seeds"][0], parameters, loaded.model)
        record = record_scores(subject, data, run, start)
        run.finish(record.duration_seconds, record)
    return record

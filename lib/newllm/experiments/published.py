"""What a notebook would have to train or to time, because it is not among the published results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from newllm.config.experiment import ExperimentParameters
from newllm.config.groups import DataParameters, RunParameters
from newllm.config.notebooks import CausalMasks, LatentAttention, ProjectionTraining, RetrofitNotebook, ReversalCurse
from newllm.data import prepare_data
from newllm.data.facts import load_facts
from newllm.experiments.arms import trained_arms
from newllm.experiments.decoding_study import decoding_part
from newllm.experiments.leak import leak_parts
from newllm.experiments.projection_study import projection_parts
from newllm.experiments.retrofits import plan_retrofits
from newllm.experiments.reversal import FOLDERS, answers_part
from newllm.experiments.trial import Trial
from newllm.files import FINISHED_FILE, SAVED_MODEL, DamagedFileError, digest_of_json, read_json, reference_folder
from newllm.runs.folder import Run, finished_runs
from newllm.runs.parts import Part

# Fingerprints of the data of a notebook, by whether facts are among the text.
Fingerprints = dict[bool, str]


def unpublished(parameters: RunParameters) -> list[str]:
    """Name what a notebook would make because it is not among the published results; nothing where it shows them only.

    Text is prepared only where all of them are published for some text.

    Parameters
    ----------
    parameters
        Of any notebook.
    """
    known = _published_whatever_the_text()
    strange = [
        name
        for name, run in _asked(parameters, dict.fromkeys(FOLDERS, "")).items()
        if _whatever_the_text(run.folder, run.identity) not in known
    ]
    if strange or not isinstance(parameters, DataParameters):
        return strange
    fingerprints = dict.fromkeys(FOLDERS, prepare_data(parameters).fingerprint)
    if isinstance(parameters, ReversalCurse):
        facts = load_facts(parameters.facts_file)
        taught = prepare_data(parameters, facts=facts, repetitions=parameters.fact_repetitions)
        fingerprints[True] = taught.fingerprint
    published = finished_runs(reference_folder())
    asked = _asked(parameters, fingerprints)
    missing = [name for name, run in asked.items() if run.key not in published]
    if isinstance(parameters, RetrofitNotebook) and not missing:
        # The first arm is the parent.
        missing = _unpublished_retrofits(published[next(iter(asked.values())).key], parameters, published)
    return missing


def _unpublished_retrofits(parent: Path, parameters: RetrofitNotebook, published: Mapping[str, Path]) -> list[str]:
    if not (parent / SAVED_MODEL).is_dir():
        return list(parameters.retrofits)
    plans = plan_retrofits(parent, parameters, parameters)
    return [plan.folder_name for plan in plans if Run(parent / plan.folder_name, plan.identity()).key not in published]


def _asked(parameters: RunParameters, data: Fingerprints) -> dict[str, Run]:
    """Return the run of each trial and part that a notebook asks for, by name; none of them is looked for."""
    nowhere = reference_folder() / "asked for"
    parts: list[Part] = []
    trials: dict[str, Run] = {}
    if isinstance(parameters, ProjectionTraining):
        parts = list(projection_parts(parameters, data[False]).values())
    if isinstance(parameters, CausalMasks):
        parts = list(leak_parts(parameters, data[False]).values())
    if isinstance(parameters, LatentAttention):
        parts = [decoding_part(parameters)]
    if isinstance(parameters, ReversalCurse):
        facts = load_facts(parameters.facts_file)
        for taught, folder in FOLDERS.items():
            for name, run in _trials(parameters, nowhere / folder, data[taught]).items():
                trials[f"{name} ({folder})"] = run
                parts.append(answers_part(facts, run))
    elif isinstance(parameters, ExperimentParameters):
        trials = _trials(parameters, nowhere, data[False])
    return trials | {part.name: part.run_in(nowhere) for part in parts}


def _trials(parameters: ExperimentParameters, folder: Path, data: str) -> dict[str, Run]:
    trials = [
        Trial(arm, seed, parameters, folder, data) for arm in trained_arms(parameters) for seed in parameters.seeds
    ]
    return {str(trial): trial.run() for trial in trials}


def _published_whatever_the_text() -> set[str]:
    known = set()
    for path in reference_folder().rglob(FINISHED_FILE):
        try:
            known.add(_whatever_the_text(path.parent, read_json(path)["identity"]))
        except (DamagedFileError, KeyError):
            continue
    return known


def _whatever_the_text(folder: Path, identity: dict[str, Any]) -> str:
    return digest_of_json([folder.name, _without_data(identity)])


def _without_data(identity: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_data(value) if isinstance(value, dict) else value
        for name, value in identity.items()
        if name != "data"
    }

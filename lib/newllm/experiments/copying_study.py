"""The experiment of notebook 11 that asks in which layers trained models copy."""

import logging
from pathlib import Path

import pandas as pd

from newllm.config.groups import DataParameters
from newllm.config.notebooks import Recall
from newllm.data import prepare_data
from newllm.evaluation.copying_layers import COLUMNS, copying_by_layer
from newllm.experiments.weights import measure_trials, part_of_trial
from newllm.files import SAVED_MODEL, outputs_folder
from newllm.models.decoder import Decoder
from newllm.runs.folder import Run, finished_runs
from newllm.runs.missing_weights import why_without_weights
from newllm.runs.parts import find_part
from newllm.runs.saved_model import load_model
from newllm.runtime import choose_device

logger = logging.getLogger(__name__)
COPYING_LAYERS = "copying_layers"
# Nats by which a passage has to be cheaper the second time for a training to have learned to copy.
COPIES = 0.5
SETTINGS = {"distance": 128, "passages": 64}


def find_copying_layers(records: pd.DataFrame, parameters: Recall, folder: Path) -> pd.DataFrame:
    """Ask trained models that copy in which layers they do, on their own test text, or take over where that was done.

    Parameters
    ----------
    records
        Rows of `newllm.runs.records_table.load_records`, be they of several texts or numbers of passes. Those that gain
        less than half a nat on a passage said twice are left out.
    parameters
        The notebook's: its device, and whether it runs again.
    folder
        Of the notebook's run.

    Returns
    -------
    pandas.DataFrame
        The rows of `newllm.evaluation.copying_layers.copying_by_layer`, with ``arm``, ``seed`` and ``passes``; none of
        trials of which neither weights nor finished measurements are here.
    """
    copying = records[records["repeated_passage_gain"] >= COPIES]
    epochs = pd.Series([given["epochs"] for given in copying["parameters"]], index=copying.index, dtype=int)

    def measure(trial: pd.Series) -> dict[str, pd.DataFrame]:
        model = load_model(trial["folder"])
        assert isinstance(model, Decoder)
        data = prepare_data(DataParameters(**{name: trial["parameters"][name] for name in DataParameters.model_fields}))
        table = copying_by_layer(model, data.test.token_ids, **SETTINGS, device=choose_device(parameters.device))
        return {COPYING_LAYERS: table}

    found = []
    for passes, alike in copying.groupby(epochs):
        # The folder of an arm and seed has the same name, whatever the number of passes.
        name = f"{COPYING_LAYERS}/passes_{passes}"
        able = _with_weights_or_measured(alike, name, folder, rerun=parameters.rerun)
        tables = measure_trials(able, parameters, folder, name, SETTINGS, measure)
        found += [table.assign(passes=passes) for table in tables.values()]
    columns = [*COLUMNS, "arm", "seed", "passes"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def _with_weights_or_measured(records: pd.DataFrame, name: str, folder: Path, *, rerun: bool) -> pd.DataFrame:
    """Return the trials that can be asked, or were, in the folder that has their weights; say what makes the others."""
    finished = finished_runs(outputs_folder())
    places = {}
    for index, trial in records.iterrows():
        own = trial["folder"]
        equal = finished.get(Run(own, trial["parameters"]).key, own)
        weights = next((place for place in (own, equal) if (place / SAVED_MODEL).is_dir()), None)
        if weights or find_part(part_of_trial(own.name, trial["parameters"], name, SETTINGS), folder, rerun=rerun):
            places[index] = weights or own
    missing = records.drop(index=list(places))
    said = why_without_weights(missing["folder"].iloc[0]) if len(missing) else None
    if said is not None:
        logger.info("%s", said)
    return records.loc[list(places)].assign(folder=list(places.values()))

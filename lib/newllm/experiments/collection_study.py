"""The experiment of notebook 09: how fast the contexts of a trained recurrence are collected, and how exactly."""

from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from newllm.config.notebooks import Cascade
from newllm.data import TextData
from newllm.evaluation.collection_speed import time_collection
from newllm.experiments.weights import measure_trials
from newllm.models.recurrent import RecurrentModel
from newllm.runs.saved_model import load_model
from newllm.runtime import choose_device


def time_collections(
    records: pd.DataFrame, parameters: Cascade, data: TextData, folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Time collecting in parallel beside the loop over tokens, for trained recurrences, or take over what was timed.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare` of models with recurrences.
    parameters
        The tokens of the loop; the device.
    data
        The training text is what is read.
    folder
        Of the notebook's run.

    Returns
    -------
    speed : pandas.DataFrame
        `newllm.evaluation.collection_speed.CollectionSpeed.table`; empty where no weights are here.
    verified : pandas.DataFrame
        One row a trial: rounds, residual (at seams), largest_difference (from the loop), sequential.
    """

    def measure(trial: pd.Series) -> dict[str, pd.DataFrame]:
        stream = torch.from_numpy(np.asarray(data.train.token_ids).astype(np.int64))
        model = cast(RecurrentModel, load_model(trial["folder"]))
        speed = time_collection(model, stream, choose_device(parameters.device), loop_tokens=parameters.loop_tokens)
        verified = {name: getattr(speed, name) for name in ("rounds", "residual", "largest_difference", "sequential")}
        return {"speed": speed.table(), "verified": pd.DataFrame([verified])}

    settings = {"loop_tokens": parameters.loop_tokens}
    found = measure_trials(records, parameters, folder, "collection", settings, measure)
    return found.get("speed", pd.DataFrame()), found.get("verified", pd.DataFrame())

"""The experiment of notebook 04 on length: what trained models lose in windows longer than those of their training."""

from pathlib import Path

import pandas as pd

from newllm.config.notebooks import PositionEncodings
from newllm.evaluation.perplexity import Windows, extrapolate
from newllm.experiments.weights import measure_trials
from newllm.runs.saved_model import load_model
from newllm.runtime import choose_device

EXTRAPOLATION = "extrapolation"


def extrapolations(
    records: pd.DataFrame, parameters: PositionEncodings, windows: Windows, folder: Path
) -> pd.DataFrame:
    """Score the trained models in windows longer than those of their training, or take over where that was done.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`; models that were not trained here are left out, as their own
        training length is another.
    parameters
        Multiples of the training length; windows at once, at most; the device.
    windows
        Test windows of the training length.
    folder
        Of the notebook's run.

    Returns
    -------
    pandas.DataFrame
        The rows of `newllm.evaluation.perplexity.extrapolate`, with ``arm`` and ``seed``; none without models.

    Raises
    ------
    ValueError
        Where there are too few held-out windows for the longest length.
    """

    def score(trial: pd.Series) -> dict[str, pd.DataFrame]:
        return {
            EXTRAPOLATION: extrapolate(
                load_model(trial["folder"]),
                windows,
                factors=parameters.extrapolation_factors,
                batch_size=parameters.batch_size,
                device=choose_device(parameters.device),
            )
        }

    settings = {"factors": parameters.extrapolation_factors}
    found = measure_trials(records, parameters, folder, EXTRAPOLATION, settings, score)
    columns = ["arm", "seed", "seq_length", "perplexity", "beyond", "tokens"]
    return found.get(EXTRAPOLATION, pd.DataFrame(columns=columns))

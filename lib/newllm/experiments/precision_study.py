"""The experiment of notebook 06 on precision: what trained models lose where their caches are kept in fewer bits."""

from pathlib import Path

import pandas as pd

from newllm.config.notebooks import LatentAttention
from newllm.data.windows import TokenWindows
from newllm.evaluation.cache_precision import score_by_precision
from newllm.experiments.weights import measure_trials
from newllm.models.narrow_layer import CODECS
from newllm.runs.saved_model import load_model
from newllm.runtime import choose_device

CACHE_PRECISION = "cache_precision"
NARROWEST = tuple(CODECS)[-1]


def score_precisions(
    records: pd.DataFrame, parameters: LatentAttention, windows: TokenWindows, folder: Path
) -> pd.DataFrame:
    """Score trained models through caches of each precision, or take over where that was done.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`. Of each arm the first seed is scored; arms that do not keep
        entries by token are left out.
    parameters
        How many windows are read, token by token; the device.
    windows
        Test windows, of which the first are read.
    folder
        Of the notebook's run.

    Returns
    -------
    pandas.DataFrame
        The rows of `newllm.evaluation.cache_precision.score_by_precision`, with ``arm``, ``seed`` and the interval in
        ``difference_low`` and ``difference_high``; none without weights.
    """
    read = windows.first(parameters.precision_windows)

    def score(trial: pd.Series) -> dict[str, pd.DataFrame]:
        model = load_model(trial["folder"])
        try:
            model.new_cache(NARROWEST)
        except ValueError:  # it keeps other things than entries by token
            return {}
        table = score_by_precision(model, read, device=choose_device(parameters.device))
        return {CACHE_PRECISION: table.rename(columns={"low": "difference_low", "high": "difference_high"})}

    first = records.drop_duplicates("arm")
    found = measure_trials(first, parameters, folder, CACHE_PRECISION, {"windows": len(read)}, score)
    columns = ["arm", "seed", "precision", "bytes_per_token", "perplexity", "bits_per_byte", "accuracy", "difference"]
    return found.get(CACHE_PRECISION, pd.DataFrame(columns=columns))

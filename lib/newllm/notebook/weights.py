"""What a notebook does where it needs trained weights, which published results come without."""

import logging

import pandas as pd

from newllm.config.groups import RunParameters
from newllm.experiments.scoring import is_loaded
from newllm.files import SAVED_MODEL

logger = logging.getLogger(__name__)


def with_weights(records: pd.DataFrame, parameters: RunParameters) -> pd.DataFrame:
    """Return the trials whose trained weights are here, and say which are not, with the command that makes them.

    Trained models that were only scored are no trials.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    parameters
        The notebook's.
    """
    records = records[~records["arm"].map(is_loaded)]
    here = [(folder / SAVED_MODEL).is_dir() for folder in records["folder"]]
    missing = records.loc[[not found for found in here], "arm"].unique()
    if len(missing):
        command = f"newllm run {parameters.notebook[:2]} --profile {parameters.profile} --rerun"
        logger.info("The weights of %s are not published: %s trains them.", ", ".join(missing), command)
    return records[pd.Series(here, index=records.index, dtype=bool)]

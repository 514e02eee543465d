"""What is published, read: the records, tables and retrofits that tables of documents, answers and claims rest on."""

from pathlib import Path

import pandas as pd

from newllm.analysis.learning_rates import best_learning_rates, with_learning_rate
from newllm.analysis.retrofits import retrofit_stages
from newllm.config.errors import ParameterError
from newllm.experiments.reversal import FOLDERS as REVERSAL_FOLDERS
from newllm.files import reference_folder
from newllm.models.registry import BASELINE
from newllm.retrofit.report import RESULT_FILE
from newllm.retrofit.running import RETROFITS_FOLDER
from newllm.runs.folder import SWEEPS_FOLDER
from newllm.runs.records_table import load_records

LEADING_SWEEP = "sotu"
CODE_SWEEP = "stdlib"
# Of arms at several rates and by several optimisers, and of budgets: no methods are ranked by what is there.
RATES_SWEEP, ADAMW_SWEEP, BUDGETS_SWEEP = "learning_rates", "adamw", "budgets"
RATES_OF_ALL_TEXT_SWEEP, RATES_ON_CODE_SWEEP = "learning_rates_all_text", "learning_rates_code"
PASSES_SWEEP = "passes_over_code"
LENT_SWEEP = "lent_embedding"
TELL_NO_METHODS = (
    RATES_SWEEP,
    ADAMW_SWEEP,
    BUDGETS_SWEEP,
    RATES_OF_ALL_TEXT_SWEEP,
    RATES_ON_CODE_SWEEP,
    PASSES_SWEEP,
)

# Tables that claims are judged by, below the reference folder.
EVIDENCE = {
    "oacd": "01_projection_training/tables/oacd",
    "leak": "03_causal_masks/tables/leak",
    "reversal": "05_reversal_curse/tables/reversal",
    "collection": "09_cascade/tables/collection_speed",
}


class UnpublishedError(FileNotFoundError):
    """Results that are not among the published ones.

    Parameters
    ----------
    command
        What makes them, such as ``newllm run 02``.
    more
        What is to be said of them behind it.
    """

    def __init__(self, command: str, more: str = "") -> None:
        super().__init__(f"not published yet: `{command}`{more}")


def published_trials() -> pd.DataFrame:
    """Read the records that claims are judged by: of published sweeps, and of what notebooks trained on text alone.

    Models that were taught facts are not among them, nor those of sweeps that tell no methods apart.
    """
    published = sorted((reference_folder() / SWEEPS_FOLDER).glob("*"))
    sweeps = [path for path in published if path.name not in TELL_NO_METHODS]
    folders = [*sweeps, reference_folder() / "05_reversal_curse" / REVERSAL_FOLDERS[False]]
    return pd.concat([load_records(folder) for folder in folders], ignore_index=True)


def published_evidence() -> dict[str, pd.DataFrame]:
    """Read the published tables that `newllm.analysis.claims.judge_claims` judges by, as far as they are there."""
    paths = {name: reference_folder() / f"{path}.csv" for name, path in EVIDENCE.items()}
    return {name: pd.read_csv(path) for name, path in paths.items() if path.is_file()}


def published_table(name: str) -> pd.DataFrame:
    """Read a table of the reference results.

    Parameters
    ----------
    name
        Its path below the reference folder, without ``.csv``; its first part is the notebook.

    Raises
    ------
    UnpublishedError
        Where it is not there.
    """
    path = reference_folder() / f"{name}.csv"
    if not path.is_file():
        raise UnpublishedError(f"newllm run {name.partition('/')[0]}")
    return pd.read_csv(path)


def published_sweep(name: str) -> pd.DataFrame:
    """Read the records of a published sweep, one row a trial.

    Raises
    ------
    UnpublishedError
        Where there are none.
    """
    records = load_records(reference_folder() / SWEEPS_FOLDER / name)
    if records.empty:
        raise UnpublishedError(f"newllm sweep {name}")
    return records


def published_rates(name: str, arm: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a published sweep of learning rates.

    Parameters
    ----------
    name
        The sweep's.
    arm
        The only one that is read; all are where omitted.

    Returns
    -------
    tuple of pandas.DataFrame
        The records with ``learning_rate``, and what `newllm.analysis.learning_rates.best_learning_rates` finds best.

    Raises
    ------
    UnpublishedError
        Where there are none, or a grid is not finished.
    """
    records = published_sweep(name)
    records = with_learning_rate(records if arm is None else records[records["arm"] == arm])
    try:
        return records, best_learning_rates(records)
    except ParameterError as error:
        raise UnpublishedError(f"newllm sweep {name}", f" ({str(error).removesuffix('.')})") from error


def published_retrofits(parent: str = BASELINE) -> list[Path]:
    """Return the folders of the published retrofits of a parent; none where there are none.

    Parameters
    ----------
    parent
        What its name begins with.
    """
    files = (reference_folder() / RETROFITS_FOLDER).glob(f"{parent}*/{RESULT_FILE}")
    return [file.parent for file in sorted(files)]


def published_stages(parent: str = BASELINE) -> pd.DataFrame:
    """Read the stages of the published retrofits of a parent, as `newllm.analysis.retrofits.retrofit_stages`.

    Parameters
    ----------
    parent
        As for `published_retrofits`.

    Raises
    ------
    UnpublishedError
        Where there are none.
    """
    stages = retrofit_stages(published_retrofits(parent))
    if stages.empty:
        raise UnpublishedError("newllm retrofit")
    return stages

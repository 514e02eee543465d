"""The tables of RESULTS on what comes before a comparison: recurrences trained alone, and leaks of the future."""

import pandas as pd

from newllm.analysis.tables import readable
from newllm.publication.reference import published_table


def projection_training() -> pd.DataFrame:
    """Write how far each way of training a recurrence alone has come: means over seeds, and the range of these."""
    trained = published_table("01_projection_training/tables/oacd")
    return pd.DataFrame(
        [
            {
                "recurrence": variant,
                "passes": _range(seeds["passes"], "{:.0f}"),
                "contexts that settled": _range(seeds["convergence_rate"], "{:.0%}"),
                "effective rank (directions)": _range(seeds["effective_rank"], "{:.0f}"),
                "seeds": len(seeds),
            }
            for variant, seeds in trained.groupby("variant", sort=False)
        ]
    )


def _range(values: pd.Series, pattern: str) -> str:
    """Write the mean, and the least and the largest behind it where they are not written alike."""
    mean, low, high = (pattern.format(value) for value in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"


def leaks() -> pd.DataFrame:
    """Write what a model reaches whose mask lets it see the future, beside the same with the right mask."""
    scored = published_table("03_causal_masks/tables/leak")
    columns = ["mask", "perplexity", "bits_per_byte", "accuracy"]
    table = readable(scored, columns)
    return table.assign(**{"taken for a leak": ["yes" if alarm else "no" for alarm in scored["alarming"]]})

"""The tables of RESULTS on what comes before a comparison: recurrences trained alone, and leaks of the future."""

import pandas as pd

from newllm.analysis.comparisons import against_random
from newllm.analysis.summary import summarize_arms
from newllm.analysis.tables import COLUMNS, readable
from newllm.publication.published import LEADING_SWEEP, LENT_SWEEP, published_sweep, published_table

# Of what OACD finds when it begins, by the sweep that trained it.
EMBEDDINGS = {LEADING_SWEEP: "as initialised", LENT_SWEEP: "of a trained `pythia`"}
TREATMENT_COLUMNS = (
    "arm",
    "perplexity",
    "convergence_rate",
    "effective_rank",
    "random_perplexity",
    "difference",
    "verdict",
    "seeds",
)


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


def treatments() -> pd.DataFrame:
    """Write what training a recurrence is worth, on either embedding, beside the same recurrence left random."""
    written = [_treatments(published_sweep(sweep), words) for sweep, words in EMBEDDINGS.items()]
    return pd.concat(written, ignore_index=True).fillna("")


def _treatments(records: pd.DataFrame, embedding: str) -> pd.DataFrame:
    beside = against_random(records).drop(columns=["kv_bytes_per_token", "perplexity"])
    table = beside.merge(summarize_arms(records), on="arm")
    table["arm"] = [f"`{arm}`" for arm in table["arm"]]
    written = readable(table, TREATMENT_COLUMNS)
    written.insert(0, "embedding", embedding)
    return written.rename(columns={COLUMNS["difference"].words: "nats/token from it"})


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

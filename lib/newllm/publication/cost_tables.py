"""The tables of RESULTS that say what memory and time cost: each a function that reads the published results."""

import pandas as pd

from newllm.publication.published import published_table
from newllm.wording import with_interval

# The part of notebook 06 in which models take turns.
DECODING = "06_latent_attention/decoding/tables/decoding"


def models_at_70m() -> pd.DataFrame:
    """Write what each model costs and keeps at the 70M shape, as ``newllm models`` measured it, widest cache first."""
    rows = []
    for _, row in published_table("models_70m").iterrows():
        speeds = {
            f"tokens/s at {int(name.rpartition('_')[2]):,}": f"{row[name]:.0f}"
            for name in row.index
            if name.startswith("tokens_per_second_")
        }
        rows.append(
            {
                "model": f"`{row['model']}`",
                "parameters": f"{row['parameters']:,.0f}",
                "values/token": f"{row['values_per_token']:,.6g}",
                "bytes/token": f"{row['bytes_per_token']:,.6g}",
                "bytes of state": f"{row['state_bytes']:,.0f}",
                "saved": f"{row['saved']:.1%}",
                "formula": "agrees" if row["formula_agrees"] else "DIFFERS",
                "certificate": "passed" if row["certificate"] else "FAILED",
                "cached - uncached": f"{row['cache_error']:.0e}",
                **speeds,
            }
        )
    return pd.DataFrame(rows)


def decoding() -> pd.DataFrame:
    """Write the time of a decoding step of each model, as a multiple of that of absorbed latent attention."""
    timings = published_table(DECODING)
    seconds = timings.pivot(index="context", columns="model", values="seconds_per_token")
    ours = seconds["mla, absorbed"]
    table = pd.DataFrame({"model": [ours.name, *seconds.loc[seconds.index[-1]].drop(ours.name).sort_values().index]})
    for context in seconds.index:
        table[f"{context:,} tokens"] = [
            f"{1000 * ours[context]:.0f} ms"
            if model == ours.name
            else f"{seconds[model][context] / ours[context]:.1f} x"
            for model in table["model"]
        ]
    return table


def decoding_reads() -> pd.DataFrame:
    """Write what a step reads beside the weights, and how near it is to reading weights and cache once."""
    timings = published_table(DECODING)
    rows = []
    for model, of_model in timings.groupby("model", sort=False):
        longest = of_model.sort_values("context").iloc[-1]
        nearness = {f"x reading, {row.context:,}": f"{row.times_reading:.1f}" for row in of_model.itertuples()}
        rows.append(
            {
                "model": model,
                "cache": longest["cache"],
                f"MiB kept, {longest['context']:,}": f"{longest['cache_bytes'] / 2**20:.1f}",
                "MiB read a step": f"{longest['read_bytes'] / 2**20:.1f}",
                **nearness,
            }
        )
    return pd.DataFrame(rows)


def decoding_circumstances() -> pd.DataFrame:
    """Write on what the steps were timed."""
    timed = published_table(DECODING).iloc[0]
    return pd.DataFrame([{"threads": timed["threads"], "load before": timed["load"], "commit": f"`{timed['commit']}`"}])


def limits() -> pd.DataFrame:
    """Write what was measured before and after the work on speed, each pair in one run."""
    return pd.DataFrame(
        [
            {
                "what": row["what"],
                "before": _quantity(row["before"], row["unit"]),
                "after": _quantity(row["after"], row["unit"]),
                "after / before": f"{row['after'] / row['before']:.2f}",
            }
            for _, row in published_table("limits").iterrows()
        ]
    )


def side_by_side() -> pd.DataFrame:
    """Write what was timed in turn with what a user would take instead."""
    return pd.DataFrame(
        [
            {
                "what": row["what"],
                "one": f"{row['one']}: {_quantity(row['one_value'], row['unit'])}",
                "other": f"{row['other']}: {_quantity(row['other_value'], row['unit'])}",
                "other / one": f"{row['other_value'] / row['one_value']:.2f}",
            }
            for _, row in published_table("side_by_side").iterrows()
        ]
    )


def _quantity(value: float, unit: str) -> str:
    return f"{value:,.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def cache_precision() -> pd.DataFrame:
    """Write what each trained model loses where its cache is kept in fewer bits."""
    return pd.DataFrame(
        [
            {
                "arm": f"`{row['arm']}`",
                "cache": row["precision"],
                "KV bytes a token, with scales": f"{row['bytes_per_token']:,.0f}",
                "perplexity": f"{row['perplexity']:.2f}",
                "accuracy": f"{row['accuracy']:.1%}",
                "nats/token from float32": with_interval(row, "difference", 4),
            }
            for _, row in published_table("06_latent_attention/tables/cache_precision").iterrows()
        ]
    )

"""The tables of RESULTS of retrofits: what trained models have lost, beside training and beside models from nothing."""

import pandas as pd

from newllm.analysis.retrofits import beside_training, stages_table
from newllm.publication.published import UnpublishedError, published_retrofits, published_stages, published_sweep
from newllm.retrofit.report import ABSORBABLE, ORIGINAL
from newllm.retrofit.smollm2 import SMOLLM2
from newllm.wording import plus_minus


def retrofits() -> pd.DataFrame:
    """Write what a trained model has lost where nothing was trained after it, the most bytes first."""
    stages = published_stages()
    # Where only the position encoding was made absorbable, nothing is left out yet.
    return stages_table(stages[(stages["healing_tokens"] == 0) & (stages["stage"] != ABSORBABLE)])


def retrofit_or_training() -> pd.DataFrame:
    """Write what the same model has when it was converted, and when it was trained from nothing."""
    table = beside_training(published_retrofits(), published_sweep("sotu"))
    if table.empty:
        raise UnpublishedError("newllm retrofit")
    return pd.DataFrame(
        [
            {
                "KV bytes a token (measured)": f"{row['bytes_per_token']:,.0f}",
                "how it was made": f"`{row['arm']}`, from nothing" if pd.isna(row["what"]) else row["what"],
                "tokens of training, the parent's too": f"{row['tokens']:,.0f}",
                "perplexity": f"{row['perplexity']:.1f}",
                "nats/token beside training from nothing": plus_minus(row, "difference", "{:+.3f}"),
                "verdict": row["verdict"] if isinstance(row["verdict"], str) else "",
                "seeds": f"{row['seeds']}",
            }
            for row in table.to_dict("records")
        ]
    )


def llama_retrofits() -> pd.DataFrame:
    """Write what SmolLM2 has lost, with what making its position encoding absorbable costs."""
    return stages_table(published_stages(SMOLLM2))


def healed_retrofits() -> pd.DataFrame:
    """Write what is lost after some training, beside the same training of what the controls are."""
    stages = published_stages()
    healed = stages[stages["healing_tokens"] > 0]
    if healed.empty:
        raise UnpublishedError("newllm retrofit ... -p healing_tokens=...")
    return stages_table(pd.concat([stages[stages["stage"] == ORIGINAL], healed]))

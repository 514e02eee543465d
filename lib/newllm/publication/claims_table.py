"""The table of RESULTS of claims: what each says, the verdict, and the numbers that it rests on."""

import pandas as pd

from newllm.analysis.claims import judge_claims
from newllm.publication.published import published_evidence, published_trials


def claims() -> pd.DataFrame:
    """Write what became of each claim of the project that came before."""
    judged = judge_claims(published_trials(), published_evidence())
    return pd.DataFrame(
        [
            {
                "claim": f"{row['claim']}. {row['words']}",
                "verdict": f"**{row['verdict']}**",
                "experiment": row["experiment"],
                "numbers": row["numbers"],
                "what would tell": row["would_tell"],
            }
            for row in judged.to_dict("records")
        ]
    )

"""The table of RESULTS on contexts that are cut short."""

import pandas as pd

from newllm.analysis.wording import with_interval
from newllm.publication.reference import published_table


def truncated_contexts() -> pd.DataFrame:
    """Write what each trained model loses when it sees its last tokens alone."""
    table = published_table("11_recall/tables/truncation")
    return pd.DataFrame(
        [
            {
                "arm": f"`{row['arm']}`",
                "last tokens that are seen": f"{row['context']:,.0f}",
                "perplexity": f"{row['perplexity']:.1f}",
                "nats/token above the whole window": with_interval(row, "lost"),
                "tokens": f"{row['tokens']:,.0f}",
            }
            for row in table.to_dict("records")
        ]
    )

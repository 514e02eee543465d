"""The report of a retrofit: the files that it leaves, and its table as a reader needs it."""

import pandas as pd

RESULT_FILE = "retrofit.json"
REPORT_FILE = "report.csv"


def report_table(report: pd.DataFrame) -> pd.DataFrame:
    """Write a report as texts, one row a stage.

    Parameters
    ----------
    report
        As `newllm.retrofit.retrofit` leaves it.

    Returns
    -------
    pandas.DataFrame
        Texts; what was not measured of a stage is empty, and controls say that they are.
    """
    return pd.DataFrame(
        [
            {
                "stage": f"{row['stage']} (control)" if row["control"] else row["stage"],
                "KV bytes a token (measured)": f"{row['bytes_per_token']:,.0f}",
                "kept": f"{row['kept']:.1%}",
                "perplexity": f"{row['perplexity']:,.2f}",
                "bits/byte": f"{row['bits_per_byte']:.3f}",
                "accuracy": f"{row['accuracy']:.1%}",
                "energy lost": "" if pd.isna(row["energy_lost"]) else f"{row['energy_lost']:.1%}",
                "tokens of healing": f"{row['healing_tokens']:,}" if row["healing_tokens"] else "",
            }
            for row in report.to_dict("records")
        ]
    )

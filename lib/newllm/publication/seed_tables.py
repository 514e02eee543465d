"""The tables of RESULTS that say how much a seed changes, and which verdicts depend on pooling that over arms."""

import pandas as pd

from newllm.analysis.differences import pooled_variance
from newllm.analysis.seed_spread import Losses, losses_of_budget, p_of_equal_spread, seed_spread, verdicts_by_pooling
from newllm.analysis.wording import text_in_words
from newllm.models.registry import BASELINE
from newllm.publication.published import CODE_SWEEP, LEADING_SWEEP, published_sweep
from newllm.wording import plus_minus

SWEEPS = (LEADING_SWEEP, CODE_SWEEP)


def seed_spreads() -> pd.DataFrame:
    """Write how much a seed changes the loss of an arm: of all arms together, and of the least and the most steady."""
    rows = []
    for text, losses in _texts():
        spread = seed_spread(losses)
        rows.append(
            {
                "text": text,
                "arms of several seeds": str(len(spread)),
                "all arms (nats/token)": f"{pooled_variance(losses.values()).value ** 0.5:.4f}",
                BASELINE: _spread(spread[spread["arm"] == BASELINE].iloc[0]),
                "least": _named(spread.iloc[0]),
                "most": _named(spread.iloc[-1]),
                "p of the same for all": f"{p_of_equal_spread(losses):.3f}",
            }
        )
    return pd.DataFrame(rows)


def pooled_verdicts() -> pd.DataFrame:
    """Write the verdicts that change where one arm says nothing of how much a seed changes the others."""
    rows = []
    for text, losses in _texts():
        table = verdicts_by_pooling(losses, BASELINE)
        published = table[table["left_out"] == ""].set_index("arm")
        without = table[table["left_out"] != ""]
        for row in published.reset_index().to_dict("records"):
            turned = without[(without["arm"] == row["arm"]) & (without["verdict"] != row["verdict"])]
            rows += [
                {
                    "text": text,
                    "arm": f"`{row['arm']}`",
                    f"nats/token from {BASELINE}": plus_minus(row, "difference", "{:+.3f}"),
                    "verdict": row["verdict"],
                    "without one arm": verdict,
                    "left out is one of": ", ".join(f"`{name}`" for name in group["left_out"]),
                }
                for verdict, group in turned.groupby("verdict", sort=False)
            ]
    return pd.DataFrame(rows)


def _texts() -> list[tuple[str, Losses]]:
    """Return the text of each published table of arms in words, with the losses of its arms."""
    tables = [published_sweep(name) for name in SWEEPS]
    given = [records.loc[records["arm"] == BASELINE, "parameters"].iloc[0] for records in tables]
    return [
        (text_in_words(each), losses_of_budget(records, BASELINE)) for each, records in zip(given, tables, strict=True)
    ]


def _named(row: pd.Series) -> str:
    return f"{_spread(row)} (`{row['arm']}`)"


def _spread(row: pd.Series) -> str:
    return f"{row['spread']:.4f}"

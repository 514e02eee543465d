"""What the published results answer to the question of each notebook, in a line; nothing is said without a record."""

from collections.abc import Callable, Hashable
from typing import Any

import pandas as pd

from newllm.analysis.claims import judge_claims
from newllm.analysis.comparisons import against_full_attention
from newllm.analysis.evidence import plain_verdict
from newllm.analysis.judges import ALIBIS, EIGHT_SLOPES, LATENTS
from newllm.analysis.recall import GAIN, baseline_gains, recall_by_arm
from newllm.analysis.summary import summarize_arms
from newllm.figures.arm_words import arm_in_words
from newllm.models.registry import BASELINE
from newllm.publication.published import (
    CODE_SWEEP,
    LEADING_SWEEP,
    UnpublishedError,
    published_evidence,
    published_stages,
    published_sweep,
    published_table,
    published_trials,
)
from newllm.wording import count, with_interval

MOST_NAMED = 3


def published_answer(notebook: str) -> str:
    """Answer the question of a notebook by what is published, or say which command publishes it.

    Parameters
    ----------
    notebook
        The notebook's name, such as ``02_main_training``; of one without an answer here, nothing is said.
    """
    try:
        return ANSWERS[notebook]() if notebook in ANSWERS else ""
    except UnpublishedError as error:
        return f"*{error}*"


def _what_is_kept() -> str:
    table = published_table("models_70m").set_index("model")["bytes_per_token"]
    least = str(table[table > 0].idxmin())
    fixed = int((table == 0).sum())
    return (
        f"`{BASELINE}` {table[BASELINE]:,.0f} bytes a token at the 70M shape, `mla` {table['mla']:,.0f}, `{least}` "
        f"{table[least]:,.0f}; {count(fixed, 'model')} with a state of fixed size"
    )


def _projection() -> str:
    table = published_table("01_projection_training/tables/oacd")
    means = table.groupby("variant", sort=False)[["convergence_rate", "passes"]].mean()
    return "; ".join(
        f"{variant}: {row.convergence_rate:.0%} of the contexts have settled after {row.passes:.0f} passes"
        for variant, row in means.iterrows()
    )


def _differences(arms: list[str] | None = None, base: str = BASELINE) -> str:
    """Write the differences of arms of the leading sweep from a base, those with the least loss first."""
    summary = summarize_arms(_leading_with(base), base)
    rows = summary[summary["arm"] != base]
    rows = rows[rows["arm"].isin(arms)] if arms else rows[rows["kv_bytes_per_token"].notna()]
    if rows.empty:
        raise UnpublishedError(f"newllm sweep {LEADING_SWEEP}")
    rows = rows.sort_values("difference")
    said = [
        f"{_named(row['arm'])} {_signed(row)}, {row['verdict']}" for row in rows.head(MOST_NAMED).to_dict("records")
    ]
    return f"nats/token from `{base}`: {'; '.join(said)}"


def _named(arm: str) -> str:
    return f"`{arm_in_words(arm)}`"


def _signed(row: dict[Hashable, Any]) -> str:
    return with_interval(row, "difference")


def _leading_with(base: str) -> pd.DataFrame:
    records = published_sweep(LEADING_SWEEP)
    if base not in set(records["arm"]):
        raise UnpublishedError(f"newllm sweep {LEADING_SWEEP}")
    return records


def _leak() -> str:
    table = published_table("03_causal_masks/tables/leak").set_index("mask")["perplexity"]
    return f"by a certificate: the swapped mask reaches perplexity {table['swapped']:.1f} beside {table['right']:.1f}"


def _reversal() -> str:
    table = published_table("05_reversal_curse/tables/reversal")
    taught = table[table["taught"].astype(bool)]
    gained = int((taught["backward_gain_low"] > 0).sum())
    known = int((taught["forward_gain_low"] > 0).sum())
    return f"{known} of {len(taught)} models gain on facts asked forward, {gained} asked backward"


def _latents() -> str:
    table = against_full_attention(_leading_with(BASELINE))
    latents = table[table["arm"].isin(LATENTS)]
    if latents.empty:
        raise UnpublishedError(f"newllm sweep {LEADING_SWEEP}")
    said = "; ".join(f"{_named(row['arm'])} {_signed(row)}, {row['verdict']}" for row in latents.to_dict("records"))
    return f"nats/token from full attention with as many heads and the same encoding: {said}"


def _beside_counts(sweep: str, arm: str) -> str:
    """Write what an arm and the best of its variants reach, beside the baseline where it is there, and counts."""
    records = published_sweep(sweep)
    methods = dict(zip(records["arm"], records["method"], strict=True))
    if arm not in methods:
        raise UnpublishedError(f"newllm sweep {sweep}")
    rows = summarize_arms(records).sort_values("perplexity").to_dict("records")
    best = next(row["arm"] for row in rows if methods.get(row["arm"]) == methods[arm])
    by_arm = {row["arm"]: row for row in rows}
    shown = [by_arm[name] for name in dict.fromkeys((arm, best, BASELINE)) if name in by_arm]
    said = [f"{_named(row['arm'])} {row['perplexity']:.1f} on {row['kv_bytes']:,.0f}" for row in shown]
    counts = [f"{row['arm']}s {row['perplexity']:.1f}" for row in rows if pd.isna(row["kv_bytes_per_token"])]
    return f"perplexity, and bytes of a whole window: {'; '.join(said)}; counts of {', '.join(counts)}"


def _recall() -> str:
    said = []
    for sweep in (LEADING_SWEEP, CODE_SWEEP):
        records = published_sweep(sweep)
        gains = baseline_gains(records, BASELINE)
        recalled = [row for row in recall_by_arm(records).to_dict("records") if GAIN in row]
        own = next((row for row in recalled if row["arm"] == BASELINE), None)
        if own is None:
            raise UnpublishedError(f"newllm sweep {sweep}")
        most = max(recalled, key=lambda row: row[GAIN])
        able = int((gains["gain_low"] > 0).sum())
        said.append(
            f"on {sweep} {able} of {len(gains)} measures can rank, and a passage said twice is {own[GAIN]:.2f} nats "
            f"cheaper to `{BASELINE}`, {most[GAIN]:.2f} to {_named(most['arm'])}"
        )
    return "; ".join(said)


def _retrofit() -> str:
    stages = published_stages()
    converted = stages[~stages["control"] & stages["energy_lost"].notna() & (stages["healing_tokens"] == 0)]
    best = converted.sort_values("difference").drop_duplicates("kept").sort_values("kept", ascending=False)
    lost = ", ".join(f"at {100 * row['kept']:.3g}% {row['difference']:+.3f}" for row in best.to_dict("records"))
    return f"nats/token without any training, by the share of its cache: {lost}"


def _claims() -> str:
    verdicts = judge_claims(published_trials(), published_evidence())["verdict"]
    counts = verdicts.map(plain_verdict).value_counts()
    return "; ".join(f"{count} {verdict}" for verdict, count in counts.items())


def _leaderboard() -> str:
    summary = summarize_arms(published_sweep(LEADING_SWEEP), BASELINE)
    arms = summary.dropna(subset=["kv_bytes_per_token"]).sort_values("bits_per_byte")
    best, least = arms.iloc[0], arms[arms["kv_bytes_per_token"] == arms["kv_bytes_per_token"].min()]
    said = f", {best['verdict']} beside `{BASELINE}`" if best["arm"] != BASELINE else ""
    return (
        f"{_named(best['arm'])} has the lowest loss of {len(arms)} arms that keep something of every token{said}, "
        f"and keeps {best['kv_bytes_per_token']:,.0f} bytes a token; of those that keep least, "
        f"{least['kv_bytes_per_token'].iloc[0]:,.0f}, it is {_named(least['arm'].iloc[0])}"
    )


ANSWERS: dict[str, Callable[[], str]] = {
    "00_overview": _what_is_kept,
    "01_projection_training": _projection,
    "02_main_training": _differences,
    "03_causal_masks": _leak,
    "04_position_encodings": lambda: _differences([*ALIBIS, "unified@position=none"]),
    "05_reversal_curse": _reversal,
    "06_latent_attention": _latents,
    "07_context_pythia": lambda: _differences(["context-oacd", f"context-oacd@{EIGHT_SLOPES}", "cla"]),
    "08_context_kv": lambda: _beside_counts("context_kv", "context-kv-oacd"),
    "09_cascade": lambda: _beside_counts("cascade", "cascade-oacd"),
    "10_key_attention_and_projected_values": lambda: _differences(["ka", "vdproj"]),
    "11_recall": _recall,
    "12_retrofit": _retrofit,
    "13_claims": _claims,
    "14_leaderboard": _leaderboard,
}

"""What finished trials say of recall: the measures of every arm, and whether the baseline's own gain lets them rank."""

import math
from pathlib import Path

import pandas as pd

from newllm.analysis.trained_alike import budgets_of, rows_apart
from newllm.analysis.trial_files import read_entry, rows_of_trials
from newllm.evaluation.recall import can_tell
from newllm.evaluation.recall_report import MEASURES
from newllm.evaluation.seed_intervals import seed_intervals
from newllm.evaluation.statistics import Interval
from newllm.experiments.scoring import EVALUATION_FILE

# What every table of results has of recall.
GAIN = MEASURES["repeated_passage_gain"]

# By what a column of `recall_by_arm` is checked, as `baseline_gains` names it; passages are checked at every distance.
LATE_POSITIONS = "late positions"
PAIRS = "pairs seen before, beside the same with another end"
CHECKED_BY = {MEASURES["recall_hits_loss"]: PAIRS, MEASURES["position_gain"]: LATE_POSITIONS}
GAINS = ["measure", "gain", "gain_low", "gain_high", "least_seed", "most_seed", "verdict"]
CAN_TELL, CANNOT_TELL = "can tell", "cannot tell at this budget"

# The measures that are losses, by the tokens that they are of.
LOSSES = {
    "pair seen before": MEASURES["recall_hits_loss"],
    "same pair, another end": MEASURES["recall_misses_loss"],
    "all other tokens": MEASURES["recall_others_loss"],
}


def recall_part(records: pd.DataFrame, part: str) -> pd.DataFrame:
    """Gather one part of the recall report of each trial, with ``arm`` and ``seed``.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    part
        ``tokens``, ``passages`` or ``places``, as `newllm.evaluation.recall_report.RecallReport` describes them.
    """
    return rows_of_trials(rows_apart(records), EVALUATION_FILE, "recall", part)


def gains_by_distance(records: pd.DataFrame) -> pd.DataFrame:
    """Average over the seeds of each arm what a passage gains that was read before, for each distance between the two.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.

    Returns
    -------
    pandas.DataFrame
        One row an arm and distance: ``distance`` (tokens), ``arm``, ``seeds``, ``gain`` (nats a token), with ``_low``
        and ``_high`` (95 % over seeds, by `newllm.evaluation.seed_intervals`, pooled over the arms at that distance).
    """
    rows = []
    for distance, passages in recall_part(records, "passages").groupby("distance"):
        gains = {str(arm): list(of_arm["gain"]) for arm, of_arm in passages.groupby("arm", sort=False)}
        for arm, interval in seed_intervals(gains).items():
            rows.append({"distance": distance, "arm": arm, "seeds": len(gains[arm]), **interval.columns("gain")})
    return pd.DataFrame(rows, columns=["distance", "arm", "seeds", "gain", "gain_low", "gain_high"])


def copying_in_columns(found: pd.DataFrame) -> pd.DataFrame:
    """Set side by side what a passage gains that was read before with the attention of all layers, and of some.

    Parameters
    ----------
    found
        Rows of `newllm.experiments.copying_study.find_copying_layers`.

    Returns
    -------
    pandas.DataFrame
        One row an arm and number of passes, whoever gains most alone in one layer first: ``arm``, ``passes``,
        ``all layers``, ``without 1`` ..., ``alone 1`` ... (nats a token, means over seeds) and ``seeds``.
    """
    named = found.assign(
        case=[
            "all layers" if layer == 0 else f"{attention} {layer}"
            for attention, layer in zip(found["attention"], found["layer"], strict=True)
        ]
    )
    order = list(dict.fromkeys(named["case"]))
    by_arm = named.groupby(["arm", "passes"])
    table = named.pivot_table("gain", index=["arm", "passes"], columns="case")[order]
    table["seeds"] = by_arm["seed"].nunique()
    most = table[[name for name in order if name.startswith("alone")]].max(axis=1)
    return table.loc[most.sort_values(ascending=False).index].rename_axis(columns=None).reset_index()


def by_parts_of_period(places: pd.DataFrame, count: int) -> pd.DataFrame:
    """Average the loss over neighbouring places of a chunk: single ones differ by the few tokens that stand there.

    Parameters
    ----------
    places
        The part ``places`` of `recall_part`.
    count
        Places of a part.

    Returns
    -------
    pandas.DataFrame
        One row a part, arm and seed: ``arm``, ``seed``, ``place`` (the first of the part), ``loss`` (nats a token) and
        ``half``, half of its 95 % interval over windows, as if places erred independently of one another.
    """
    if places.empty:
        return places
    half = (places["loss_high"] - places["loss_low"]) / 2
    parts = places.assign(place=places["place"] // count * count, squared=half**2)
    by_part = parts.groupby(["arm", "seed", "place"], sort=False)
    table = by_part.agg(loss=("loss", "mean"), squared=("squared", "sum"), places=("loss", "size")).reset_index()
    return table.assign(half=table.pop("squared") ** 0.5 / table.pop("places"))


def rise_through_period(parts: pd.DataFrame) -> pd.DataFrame:
    """Compare the last places of a chunk with the first.

    Parameters
    ----------
    parts
        As `by_parts_of_period` gives them; without rows there is nothing to compare.

    Returns
    -------
    pandas.DataFrame
        One row an arm: ``arm``, ``rise`` of the mean loss over its seeds from the first part to the last (nats a token)
        and ``half`` of its 95 % interval over windows; seeds read the same windows, so they do not narrow it.
    """
    rows = []
    for arm, group in parts.groupby("arm", sort=False) if len(parts) else ():
        means = group.groupby("place")[["loss", "half"]].mean()
        rise = means["loss"].iloc[-1] - means["loss"].iloc[0]
        rows.append({"arm": arm, "rise": rise, "half": math.hypot(means["half"].iloc[-1], means["half"].iloc[0])})
    return pd.DataFrame(rows, columns=["arm", "rise", "half"])


def recall_by_arm(records: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Average the recall columns of the records of each arm over its seeds.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    baseline
        The arm whose budget leaves the others their plain names, as for `newllm.analysis.trained_alike.rows_apart`.

    Returns
    -------
    pandas.DataFrame
        One row an arm, the lowest loss on pairs seen before first: ``arm``, ``seeds``, and each of `MEASURES` that all
        its trials have, by what it means, with ``_low`` and ``_high`` (95 %, by `newllm.evaluation.seed_intervals`).
    """
    records = rows_apart(records, baseline)
    rows = [row for _, alike in records.groupby(budgets_of(records), sort=False) for row in _recalled(alike)]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["arm", "seeds"])
    first = next(iter(MEASURES.values()))
    return table.sort_values(first, ignore_index=True) if first in table else table


def _recalled(alike: pd.DataFrame) -> list[dict[str, object]]:
    """Return the rows of the arms of one budget, over which it is pooled how much a seed changes."""
    groups = dict(iter(alike.groupby("arm", sort=False)))
    rows: dict[object, dict[str, object]] = {arm: {"arm": arm, "seeds": len(group)} for arm, group in groups.items()}
    for name, words in MEASURES.items():
        known = {arm: list(group[name]) for arm, group in groups.items() if name in group and group[name].notna().all()}
        for arm, interval in seed_intervals(known).items():
            rows[arm] |= interval.columns(words)
    return list(rows.values())


def with_recall_gain(summary: pd.DataFrame, records: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Put what each arm gains on a passage said twice beside its other measures.

    Parameters
    ----------
    summary
        What `newllm.analysis.summary.summarize_arms` makes of the records; its order is kept, and seeds are pooled over
        what was trained alike.
    records
        Rows of `newllm.experiments.comparison.compare`.
    baseline
        The arm that the summary took differences from.

    Returns
    -------
    pandas.DataFrame
        The summary with `GAIN`, ``_low`` and ``_high``: NaN for counts of n-grams, and where no trial of an arm has it.
    """
    gains = recall_by_arm(records, baseline).reindex(columns=["arm", GAIN, f"{GAIN}_low", f"{GAIN}_high"])
    return summary.merge(gains, on="arm", how="left")


def recall_differences(records: pd.DataFrame, baseline: str | None) -> pd.DataFrame:
    """Take the differences of the losses of each arm from those of the baseline, among what was trained as it was.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    baseline
        The arm to take differences from; None where there is none.

    Returns
    -------
    pandas.DataFrame
        One row an arm and kind of tokens, in the order of `recall_by_arm`: ``arm``, ``kind`` in words, ``difference``
        in nats a token (negative: better than the baseline), ``difference_low``, ``difference_high`` (95 % over seeds,
        NaN where they tell none). No rows without the baseline.
    """
    rows = []
    records = rows_apart(records, baseline)
    budgets = budgets_of(records)
    recall = recall_by_arm(records[budgets.isin(budgets[records["arm"] == baseline])], baseline)
    for base in recall[recall["arm"] == baseline].to_dict("records"):
        for arm in recall[recall["arm"] != baseline].to_dict("records"):
            for kind, words in LOSSES.items():
                difference = arm[words] - base[words]
                # The variance of a seed is pooled over all arms, so that both halves are of one Student's t.
                half = math.hypot(*((each[f"{words}_high"] - each[f"{words}_low"]) / 2 for each in (arm, base)))
                ends = {"difference_low": difference - half, "difference_high": difference + half}
                rows.append({"arm": arm["arm"], "kind": kind, "difference": difference, **ends})
    return pd.DataFrame(rows, columns=["arm", "kind", "difference", "difference_low", "difference_high"])


def baseline_gains(records: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Say of each measure whether the baseline gains by it: where it does not, the measure cannot rank anything.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    baseline
        The arm that remembers everything.

    Returns
    -------
    pandas.DataFrame
        One row a measure: ``measure``, ``gain`` in nats a token with ``gain_low`` and ``gain_high`` (95 % over windows
        or passages of these very trainings, means over seeds), ``least_seed`` and ``most_seed`` (the gains of the seeds
        that gain least and most), and ``verdict``, which says whether it can tell at this budget. No rows without the
        baseline.
    """
    rows: list[dict[str, object]] = []
    apart = rows_apart(records, baseline)
    own = apart[apart["arm"] == baseline]
    if own.empty:
        return pd.DataFrame(rows, columns=GAINS)
    reports = [read_entry(Path(folder) / EVALUATION_FILE, "recall") for folder in own["folder"]]
    found: dict[str, list[Interval]] = {LATE_POSITIONS: [_interval(r["position_gain"]) for r in reports]}
    found[PAIRS] = [_of_pairs(r["tokens"]) for r in reports]
    for distance in sorted({row["distance"] for report in reports for row in report["passages"]}):
        found[f"a passage said again after {distance:,} tokens"] = [
            _interval(row) for report in reports for row in report["passages"] if row["distance"] == distance
        ]
    for measure, gains in found.items():
        known = [gain for gain in gains if not math.isnan(gain.mean)]
        if not known:
            rows.append({"measure": measure, "verdict": "windows are too short to tell"})
            continue
        mean, low, high = (
            sum(ends) / len(known) for ends in zip(*((g.mean, g.low, g.high) for g in known), strict=True)
        )
        gain = Interval(mean, low, high, max(each.count for each in known))
        seeds = [each.mean for each in known]
        verdict = CAN_TELL if can_tell(gain) else CANNOT_TELL
        row = {"measure": measure, **gain.columns("gain"), "least_seed": min(seeds), "most_seed": max(seeds)}
        rows.append(row | {"verdict": verdict})
    return pd.DataFrame(rows, columns=GAINS)


def cannot_rank(records: pd.DataFrame, baseline: str) -> list[str]:
    """Return the columns of `recall_by_arm` that say nothing of arms, for the baseline itself does not gain by them.

    Parameters
    ----------
    records, baseline
        As for `baseline_gains`.
    """
    gains = baseline_gains(records, baseline).set_index("measure")["verdict"]
    told = gains == CAN_TELL
    passages = told.drop(labels=CHECKED_BY.values(), errors="ignore")
    able = {column: bool(told.get(measure, False)) for column, measure in CHECKED_BY.items()}
    able[GAIN] = len(passages) > 0 and bool(passages.all())
    return [column for column, tells in able.items() if not tells]


def ranked_recall(records: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Order the arms of `recall_by_arm` by what can rank them: pairs, or else passages, or else late positions.

    Parameters
    ----------
    records, baseline
        As for `baseline_gains`; where nothing can rank arms, they stand by name.
    """
    table, unable = recall_by_arm(records, baseline), cannot_rank(records, baseline)
    ascending = {MEASURES["recall_hits_loss"]: True, GAIN: False, MEASURES["position_gain"]: False, "arm": True}
    by = next(column for column in ascending if column in table and column not in unable)
    return table.sort_values(by, ascending=ascending[by], kind="stable", ignore_index=True)


def _interval(row: object) -> Interval:
    """Read a gain with its ends; NaN where there is none."""
    values = row if isinstance(row, dict) else {}
    mean, low, high = (
        math.nan if values.get(name) is None else values[name] for name in ("gain", "gain_low", "gain_high")
    )
    return Interval(mean, low, high, 1 if math.isnan(low) else 2)


def _of_pairs(rows: list[dict[str, float]]) -> Interval:
    """Return by how much pairs seen before are easier than their controls; the intervals are of other tokens."""
    kinds = {row["kind"]: row for row in rows}
    if not {"hits", "misses"} <= set(kinds):
        return Interval(math.nan, math.nan, math.nan, 1)
    hits, misses = kinds["hits"], kinds["misses"]  # type: ignore[index]
    mean = misses["loss"] - hits["loss"]
    half = math.hypot(*((each["loss_high"] - each["loss_low"]) / 2 for each in (hits, misses)))
    return Interval(mean, mean - half, mean + half, 2)

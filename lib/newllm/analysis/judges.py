"""How the claims of the project that came before are judged: the numbers and the verdict, from what is published."""

import math
from collections.abc import Callable

import pandas as pd

from newllm.analysis.evidence import (
    CONVERGED,
    FAILS,
    HOLDS,
    UNTOLD,
    Compared,
    Evidence,
    Finding,
    join,
    says_better,
    says_no_worse,
    says_within,
)
from newllm.evaluation.absorption import absorption_error
from newllm.experiments.floor import floors_of
from newllm.models import create

# Perplexity 7 % higher, in nats a token.
SEVEN_PERCENT = math.log(1.07)
PASSES = 60
FEWEST_SEEDS = 3
WELL_KNOWN = 0.8

# Windows in which a context a hundred tokens is kept more than once.
LONG_WINDOW = 512

# Logits in float64 that differ by less are the same.
EXACT = 1e-9

Judge = Callable[[Evidence], Finding]


def better(arm: str, base: str, **least: float) -> Judge:
    """Judge that one arm is better than another."""
    return lambda evidence: join(
        [(one, says_better(one.found)) for one in evidence.compare(arm, base, least)], decides="the text"
    )


def no_worse(arm: str, base: str) -> Judge:
    """Judge that one arm loses nothing against another."""
    return lambda evidence: join(
        [(one, says_no_worse(one.found)) for one in evidence.compare(arm, base)], decides="the text"
    )


def all_of(*judges: Judge) -> Judge:
    """Judge that several things hold together: one that does not decides, then one that is open."""

    def judge(evidence: Evidence) -> Finding:
        findings = [one(evidence) for one in judges]
        order = [FAILS, *(one.verdict for one in findings if one.verdict.startswith("depends")), UNTOLD, HOLDS]
        first = min(findings, key=lambda one: order.index(one.verdict))
        numbers = "; ".join(one.numbers for one in findings if one.numbers)
        return Finding(first.verdict, numbers, first.difference, first.low, first.high)

    return judge


def oacd_variant(*variants: str, converges: bool) -> Judge:
    """Judge that OACD converges, or does not, where something is left out or done in another way."""

    def judge(evidence: Evidence) -> Finding:
        table = evidence.tables.get("oacd")
        rows = None if table is None else table[table["variant"].isin(variants)]
        if rows is None or set(rows["variant"]) != set(variants):
            return Finding()
        shares = rows.groupby("variant", sort=False)["convergence_rate"]
        passes = rows.groupby("variant")["passes"].mean()
        said = "; ".join(
            f"{name}: {rates.mean():.0%} after {passes[name]:.0f} passes, {len(rates)} seed{'s' if len(rates) > 1 else ''}"
            for name, rates in shares
        )
        if shares.size().min() < FEWEST_SEEDS:
            return Finding(UNTOLD, said)
        as_claimed = [(rates >= CONVERGED).all() if converges else (rates < CONVERGED).all() for _, rates in shares]
        return Finding(HOLDS if all(as_claimed) else FAILS, said)

    return judge


def few_passes(evidence: Evidence) -> Finding:
    """Judge that OACD brings every recurrence to the share that counts as converged in some 60 passes."""
    passes = evidence.passes_to(CONVERGED)
    if passes.empty:
        return Finding()
    by_arm = passes.groupby(level=0)
    said = "; ".join(
        f"{arm}: {values.median():.0f} passes"
        if values.notna().all()
        else f"{arm}: {values.isna().sum()} of {len(values)} blocks never"
        for arm, values in by_arm
    )
    if passes.groupby(level=[0, 1, 2]).ngroups < FEWEST_SEEDS:
        return Finding(UNTOLD, said)
    reached = [bool((values <= PASSES).all()) for _, values in by_arm]
    if len(set(reached)) > 1:
        return Finding("depends on the method", said)
    return Finding(HOLDS if reached[0] else FAILS, said)


def rank_is_trained(evidence: Evidence) -> Finding:
    """Judge that training by OACD brings the effective rank of contexts to 80 % and more, and nothing less does."""
    trained, left = (evidence.measures(arm, "effective_rank") for arm in ("dproj-oacd", "dproj-random"))
    if trained.empty or left.empty:
        return Finding()
    said = f"effective rank {trained.mean():.0%} with OACD, {left.mean():.0%} as initialised"
    if min(len(trained), len(left)) < FEWEST_SEEDS:
        return Finding(UNTOLD, said)
    return Finding(HOLDS if trained.mean() >= WELL_KNOWN and trained.min() > left.max() else FAILS, said)


def costs_seven_percent(evidence: Evidence) -> Finding:
    """Judge that latent attention loses no more than 7 % of perplexity, whatever its encoding."""
    by_encoding = {arm: evidence.compare(arm, "pythia") for arm in ("mla", "mla@position=rope")}
    found = [(one, says_within(one, SEVEN_PERCENT)) for rows in by_encoding.values() for one in rows]
    return join(found, decides="the text or the encoding")


def can_be_absorbed(evidence: Evidence) -> Finding:
    """Judge that a latent model with RoPE cannot be decoded absorbed: by one that is."""
    rows = [group[group["arm"] == "mla@position=rope"] for group in evidence.settings()]
    published = pd.concat(rows) if rows else pd.DataFrame()
    if published.empty:
        return Finding()
    compared = join([(one, None) for one in evidence.compare("mla@position=rope", "mla")])
    kept = published["kv_bytes_per_token"].iloc[0]
    error = absorption_error(create("mla", "tiny", position="rope").double().eval())
    # Weights are drawn anew each time: below the limit the figure itself would be another in every document.
    apart = f"at most {max(error, EXACT):.0e} from the full pass in float64"
    said = f"mla@position=rope decodes absorbed from {kept:,.0f} bytes a token, {apart}"
    numbers = "; ".join(part for part in (said, compared.numbers) if part)
    verdict = FAILS if error < EXACT else HOLDS
    return Finding(verdict, numbers, compared.difference, compared.low, compared.high)


def reversed_order(evidence: Evidence) -> Finding:
    """Judge that models differ in what they gain on facts asked backward."""
    table = evidence.tables.get("reversal")
    if table is None:
        return Finding()
    taught = table[table["taught"].astype(bool)]
    first = ", ".join(f"{row['arm']} {row['forward_first']:.0%}" for row in taught.to_dict("records"))
    said = f"right name first, asked forward: {first}"
    if not (taught["forward_first"] >= WELL_KNOWN).all():
        return Finding(UNTOLD, f"{said}: facts that are not known forward tell nothing backward")
    gained = taught[taught["backward_gain_low"] > 0]
    said += f"; {len(gained)} of {len(taught)} gain backward"
    if taught["seeds"].min() < FEWEST_SEEDS:
        return Finding(UNTOLD, said)
    # One knows more than another where their intervals have nothing in common.
    differ = len(gained) and taught["backward_gain_high"].min() < gained["backward_gain_low"].max()
    return Finding(HOLDS if differ else UNTOLD if len(gained) else FAILS, said)


def usable(evidence: Evidence) -> Finding:
    """Usable is what predicts better than counts do, in windows in which contexts are kept at all."""
    said, verdicts = [], []
    for records in evidence.settings():
        rows = records[records["method"] == "context-kv"]
        rows = rows[[given["seq_length"] >= LONG_WINDOW for given in rows["parameters"]]]
        if "convergence_rate" in rows:
            rows = rows[rows["convergence_rate"] >= CONVERGED]
        for floor in floors_of(rows):
            counts = min(score.perplexity for score in floor.scores)
            for arm, group in rows.groupby("arm"):
                said.append(f"{arm}: {group['perplexity'].mean():.1f}, counts {counts:.1f}")
                if group["seed"].nunique() >= FEWEST_SEEDS:
                    verdicts.append(bool((group["perplexity"] < counts).all()))
    if not verdicts:
        return Finding(UNTOLD, "; ".join(said))
    verdict = "depends on the arm" if len(set(verdicts)) > 1 else HOLDS if verdicts[0] else FAILS
    return Finding(verdict, "; ".join(said))


def parallel_is_sequential(evidence: Evidence) -> Finding:
    """Judge that contexts that are collected side by side are those collected one by one."""
    table = evidence.tables.get("collection")
    if table is None or "largest_difference" not in table:
        return Finding()
    largest = float(table["largest_difference"].max())
    return Finding(HOLDS if largest < 1e-4 else FAILS, f"largest difference {largest:.0e}")


def leak_is_seen(evidence: Evidence) -> Finding:
    """Judge that perplexity alarms where a model sees the future, and not where it does not."""
    table = evidence.tables.get("leak")
    if table is None:
        return Finding()
    rows = table.set_index("mask")
    said = "; ".join(f"{mask}: perplexity {row['perplexity']:.1f}" for mask, row in rows.iterrows())
    seen = bool(rows.loc["swapped", "alarming"]) and not bool(rows.loc["right", "alarming"])
    return Finding(HOLDS if seen else FAILS, said)


def worth_its_bytes(evidence: Evidence) -> Finding:
    """Judge that DProj is worth its bytes: no worse than the control that keeps as many."""
    beside: list[Compared] = evidence.compare("dproj-oacd", "narrow")
    found = join([(one, says_no_worse(one.found)) for one in beside], decides="the text")
    against = "; ".join(one.words for one in evidence.compare("dproj-oacd", "pythia"))
    numbers = f"from narrow, which keeps the same bytes, {found.numbers}" if found.numbers else ""
    numbers += f"; from pythia {against}" if against else ""
    return Finding(found.verdict, numbers, found.difference, found.low, found.high)

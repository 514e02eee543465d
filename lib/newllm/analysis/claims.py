"""The claims of the project that came before, each with the experiment that judges it, the numbers, and a verdict."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes
    ----------
    number
        As RESULTS counts them.
    words
        What was claimed.
    experiment
        What judges it: arms and measure.
    judge
        Computes the numbers and the verdict from what is published.
    would_tell
        What to run where it cannot be told.
    """

    number: int
    words: str
    experiment: str
    judge: Judge
    would_tell: str


def judge_claims(records: pd.DataFrame, tables: Mapping[str, pd.DataFrame] | None = None) -> pd.DataFrame:
    """Judge every claim by what is published.

    Parameters
    ----------
    records
        Rows of `newllm.runs.records_table.load_records`, such as of the reference results.
    tables
        Published tables by name: ``oacd`` (one row a trained recurrence: ``variant``, ``embedding``, ``seed``,
        ``passes``, ``convergence_rate``), ``reversal`` (of `newllm.experiments.reversal.summarize_reversal`),
        ``leak`` (``mask``, ``perplexity``, ``alarming``) and ``collection`` (``largest_difference`` of parallel from
        sequential contexts). What is not there cannot judge.

    Returns
    -------
    pandas.DataFrame
        One row a claim: ``claim`` (its number), ``words``, ``experiment``, ``numbers``, ``verdict`` (holds, does not
        hold, depends on something, or cannot be told here), ``would_tell`` (only where it cannot be told), and
        ``difference`` in nats per token with ``difference_low`` and ``difference_high``, NaN where there is none.
    """
    evidence = Evidence(records, tables or {})
    rows = []
    for claim in CLAIMS:
        found = claim.judge(evidence)
        rows.append(
            {
                "claim": claim.number,
                "words": claim.words,
                "experiment": claim.experiment,
                "numbers": found.numbers,
                "verdict": found.verdict,
                "would_tell": claim.would_tell if found.verdict == UNTOLD else "",
                "difference": found.difference,
                "difference_low": found.low,
                "difference_high": found.high,
            }
        )
    return pd.DataFrame(rows)


def _better(arm: str, base: str, decides: str = "the text", **least: float) -> Judge:
    """Judge that one arm is better than another."""
    return lambda evidence: join(
        [(one, says_better(one.found)) for one in evidence.compare(arm, base, least)], decides=decides
    )


def _no_worse(arm: str, base: str, decides: str = "the text") -> Judge:
    """Judge that one arm loses nothing against another."""
    return lambda evidence: join(
        [(one, says_no_worse(one.found)) for one in evidence.compare(arm, base)], decides=decides
    )


def _all_of(*judges: Judge) -> Judge:
    """Judge that several things hold together: one that does not decides, then one that is open."""

    def judge(evidence: Evidence) -> Finding:
        findings = [one(evidence) for one in judges]
        order = [FAILS, *(one.verdict for one in findings if one.verdict.startswith("depends")), UNTOLD, HOLDS]
        first = min(findings, key=lambda one: order.index(one.verdict))
        numbers = "; ".join(one.numbers for one in findings if one.numbers)
        return Finding(first.verdict, numbers, first.difference, first.low, first.high)

    return judge


def _oacd_variant(*variants: str, converges: bool) -> Judge:
    """Judge that OACD converges, or does not, where something is left out or done in another way."""

    def judge(evidence: Evidence) -> Finding:
        table = evidence.tables.get("oacd")
        rows = None if table is None else table[table["variant"].isin(variants)]
        if rows is None or set(rows["variant"]) != set(variants):
            return Finding()
        shares = rows.groupby("variant", sort=False)["convergence_rate"]
        said = "; ".join(
            f"{name}: {rates.mean():.0%} over {len(rates)} seed{'s' if len(rates) > 1 else ''}"
            for name, rates in shares
        )
        if shares.size().min() < FEWEST_SEEDS:
            return Finding(UNTOLD, said)
        as_claimed = [(rates >= CONVERGED).all() if converges else (rates < CONVERGED).all() for _, rates in shares]
        return Finding(HOLDS if all(as_claimed) else FAILS, said)

    return judge


def _few_passes(evidence: Evidence) -> Finding:
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


def _rank_is_trained(evidence: Evidence) -> Finding:
    trained, left = (evidence.measures(arm, "effective_rank") for arm in ("dproj-oacd", "dproj-random"))
    if trained.empty or left.empty:
        return Finding()
    said = f"effective rank {trained.mean():.0%} with OACD, {left.mean():.0%} as initialised"
    if min(len(trained), len(left)) < FEWEST_SEEDS:
        return Finding(UNTOLD, said)
    return Finding(HOLDS if trained.mean() >= WELL_KNOWN and trained.min() > left.max() else FAILS, said)


def _costs_seven_percent(evidence: Evidence) -> Finding:
    by_encoding = {arm: evidence.compare(arm, "pythia") for arm in ("mla", "mla@position=rope")}
    found = [(one, says_within(one, SEVEN_PERCENT)) for rows in by_encoding.values() for one in rows]
    return join(found, decides="the text or the encoding")


def _can_be_absorbed(evidence: Evidence) -> Finding:
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


def _reversed_order(evidence: Evidence) -> Finding:
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


def _usable(evidence: Evidence) -> Finding:
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


def _parallel_is_sequential(evidence: Evidence) -> Finding:
    table = evidence.tables.get("collection")
    if table is None or "largest_difference" not in table:
        return Finding()
    largest = float(table["largest_difference"].max())
    return Finding(HOLDS if largest < 1e-4 else FAILS, f"largest difference {largest:.0e}")


def _leak_is_seen(evidence: Evidence) -> Finding:
    table = evidence.tables.get("leak")
    if table is None:
        return Finding()
    rows = table.set_index("mask")
    said = "; ".join(f"{mask}: perplexity {row['perplexity']:.1f}" for mask, row in rows.iterrows())
    seen = bool(rows.loc["swapped", "alarming"]) and not bool(rows.loc["right", "alarming"])
    return Finding(HOLDS if seen else FAILS, said)


def _dproj(evidence: Evidence) -> Finding:
    beside: list[Compared] = evidence.compare("dproj-oacd", "narrow")
    found = join([(one, says_no_worse(one.found)) for one in beside], decides="the text")
    against = "; ".join(one.words for one in evidence.compare("dproj-oacd", "pythia"))
    numbers = f"from narrow, which keeps the same bytes, {found.numbers}" if found.numbers else ""
    numbers += f"; from pythia {against}" if against else ""
    return Finding(found.verdict, numbers, found.difference, found.low, found.high)


SOTU = "newllm sweep sotu with three seeds"

CLAIMS = (
    Claim(
        1,
        "embed_norm is needed for OACD to converge",
        "OACD with and without embed_norm: share of settled contexts",
        _oacd_variant("without embed_norm", converges=False),
        "three seeds of projection training without embed_norm, published as the table oacd",
    ),
    Claim(
        2,
        "weights N(0, 0.1) are needed; Xavier and Kaiming fail",
        "OACD from each initialisation: share of settled contexts",
        _oacd_variant("xavier", "kaiming", converges=False),
        "three seeds of projection training from each initialisation, published as the table oacd",
    ),
    Claim(
        3,
        "OACD before main training is needed",
        "dproj-oacd beside dproj-random and dproj-end-to-end: test loss",
        _all_of(_better("dproj-oacd", "dproj-random"), _better("dproj-oacd", "dproj-end-to-end")),
        SOTU,
    ),
    Claim(
        4,
        "about 60 passes reach 90 %",
        f"passes until {CONVERGED:.0%} of the contexts have settled, every recurrence",
        _few_passes,
        "one published arm with a recurrence",
    ),
    Claim(
        5,
        "an effective rank of 80 % and more is OACD's work",
        "effective rank of dproj-oacd beside dproj-random",
        _rank_is_trained,
        SOTU,
    ),
    Claim(
        6,
        "blocks need different data",
        "cascade with disjoint beside full data, blocks converged: test loss",
        _better("cascade-oacd", "cascade-oacd@data_split=full", convergence_rate=CONVERGED),
        "both with three seeds, at settings that bring every block to 90 %",
    ),
    Claim(
        7,
        "two blocks of 500 beat one of 1000",
        "cascade beside one block of twice the width, blocks converged: test loss",
        _better("cascade-oacd", "cascade-oacd@context_dim=336,num_blocks=1", convergence_rate=CONVERGED),
        "both with three seeds, at settings that bring every block to 90 %",
    ),
    Claim(
        8,
        "a frozen embedding beats a trained one",
        "cascade beside itself with freeze_embedding=false: test loss",
        _better("cascade-oacd", "cascade-oacd@freeze_embedding=false"),
        "both with three seeds, on an embedding of a lender that has read all the text",
    ),
    Claim(
        9,
        "tying the embedding to the head costs nothing",
        "cascade beside itself with tie_word_embeddings=false: test loss",
        _no_worse("cascade-oacd", "cascade-oacd@tie_word_embeddings=false"),
        "both with three seeds",
    ),
    Claim(
        10,
        "MLA saves 87.5 % of the cache for 7 % of perplexity",
        "mla under both encodings beside pythia: test loss within ln 1.07",
        _costs_seven_percent,
        SOTU,
    ),
    Claim(
        11,
        "one slope of ALiBi for all heads is enough",
        "mla beside itself with a slope for each head: test loss",
        _no_worse("mla", "mla@alibi_slopes_by_head=true"),
        "both with three seeds",
    ),
    Claim(
        12,
        "RoPE cannot be absorbed",
        "mla@position=rope decoded absorbed, its bytes a token, and its test loss beside mla",
        _can_be_absorbed,
        SOTU,
    ),
    Claim(
        13,
        "RoPE is ahead of ALiBi, and ALiBi of no encoding, in perplexity",
        "pythia (RoPE) beside unified with ALiBi, and that beside none: test loss",
        _all_of(
            _better("pythia", "unified@position=alibi"), _better("unified@position=alibi", "unified@position=none")
        ),
        SOTU,
    ),
    Claim(
        14,
        "the models differ in how well they know reversed facts",
        f"margin gained backward, where the right name is first forward in {WELL_KNOWN:.0%}",
        _reversed_order,
        "facts repeated until they are known forward, three seeds (newllm run 05)",
    ),
    Claim(
        15,
        "Context-KV is usable with 1 % of the cache",
        f"context-kv beside counts on the same windows of {LONG_WINDOW} or more, blocks converged",
        _usable,
        f"context-kv with chunks of 100 in windows of {LONG_WINDOW}, three seeds",
    ),
    Claim(
        16,
        "contexts computed in parallel equal those computed one by one",
        "largest difference of the two over one stream",
        _parallel_is_sequential,
        "notebook 09, published with its table collection_speed",
    ),
    Claim(
        17,
        "the perplexity table finds leaks",
        "a model with the mask swapped, trained beside the right one",
        _leak_is_seen,
        "notebook 03 at the cpu profile, published with its table leak",
    ),
    Claim(
        18,
        "DProj saves 37.5 % of the cache",
        "dproj-oacd beside narrow, which keeps the same bytes: test loss",
        _dproj,
        SOTU,
    ),
)

"""How the claims of the project that came before are judged: the numbers and the verdict, from what is published."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, permutations

import pandas as pd

from newllm.analysis.encodings import full_attention_of
from newllm.analysis.evidence import CONVERGED, Evidence, Finding, join, says_better, says_no_worse, says_within
from newllm.evaluation.absorption import absorption_error
from newllm.evaluation.verdicts import DEPENDS, FAILS, HOLDS, UNTOLD
from newllm.experiments.floor import floors_of
from newllm.experiments.projection_study import AS_IT_IS
from newllm.models import create
from newllm.models.registry import BASELINE
from newllm.wording import count

# Perplexity 7 % higher, in nats a token.
SEVEN_PERCENT = math.log(1.07)
PASSES = 60
FEWEST_SEEDS = 3
WELL_KNOWN = 0.8

# Nats by which models may differ in what they gain, and be as good: odds of the right name within 11 %.
SAME_GAIN = 0.1

# Windows in which a context a hundred tokens is kept more than once.
LONG_WINDOW = 512

# Logits in float64 that differ by less are the same.
EXACT = 1e-9

Pair = tuple[str, str]


@dataclass(frozen=True)
class Judge:
    """How a claim is judged.

    Attributes
    ----------
    find
        Computes the numbers and the verdict from what is published.
    pairs
        Arms whose test losses it compares, each with what it is compared with: what all claims compare pays together.
    """

    find: Callable[[Evidence], Finding]
    pairs: tuple[Pair, ...] = ()


def better(arm: str, base: str, **least: float) -> Judge:
    """Judge that one arm is better than another."""

    def find(evidence: Evidence) -> Finding:
        return join([(one, says_better(one.found)) for one in evidence.compare(arm, base, least)], decides="the text")

    return Judge(find, ((arm, base),))


def no_worse(arm: str, base: str) -> Judge:
    """Judge that one arm loses nothing against another."""

    def find(evidence: Evidence) -> Finding:
        return join([(one, says_no_worse(one.found)) for one in evidence.compare(arm, base)], decides="the text")

    return Judge(find, ((arm, base),))


def all_of(*judges: Judge) -> Judge:
    """Judge that several things hold together: one that does not decides, then one that is open."""

    def find(evidence: Evidence) -> Finding:
        findings = [one.find(evidence) for one in judges]
        order = [FAILS, *(one.verdict for one in findings if one.verdict.startswith(DEPENDS)), UNTOLD, HOLDS]
        return _together(findings, min((one.verdict for one in findings), key=order.index))

    return Judge(find, tuple(pair for one in judges for pair in one.pairs))


def each_of(decides: str, *judges: Judge) -> Judge:
    """Judge that something holds in each of several ways, of which those that nobody has tried say nothing.

    Parameters
    ----------
    decides
        What the claim depends on where it holds in one way and not in another.
    judges
        Of each way.
    """

    def find(evidence: Evidence) -> Finding:
        findings = [one for one in (judge.find(evidence) for judge in judges) if one.numbers]
        if not findings:
            return Finding()
        verdicts = {one.verdict for one in findings}
        depends = sorted(verdict for verdict in verdicts if verdict.startswith(DEPENDS))
        if {HOLDS, FAILS} <= verdicts:
            depends.insert(0, f"{DEPENDS} on {decides}")
        return _together(findings, next(iter([*depends, *(verdicts & {UNTOLD}), *verdicts])))

    return Judge(find, tuple(dict.fromkeys(pair for one in judges for pair in one.pairs)))


def within(words: str, judge: Judge) -> Judge:
    """Say behind a verdict that something holds within what it was tried, where the claim says more.

    Parameters
    ----------
    words
        What it was tried with.
    judge
        Of the claim as it was tried.
    """

    def find(evidence: Evidence) -> Finding:
        found = judge.find(evidence)
        return replace(found, verdict=f"{HOLDS} {words}") if found.verdict == HOLDS else found

    return replace(judge, find=find)


def _together(findings: Sequence[Finding], verdict: str) -> Finding:
    """Put all numbers into one finding."""
    notes, compared = ([part for one in findings for part in getattr(one, name)] for name in ("notes", "compared"))
    return Finding(verdict, tuple(notes), tuple(compared))


def fails_to_converge(*variants: str) -> Judge:
    """Judge that OACD does not converge where something is left out or done in another way, in the passes it has."""

    def find(evidence: Evidence) -> Finding:
        table = evidence.tables.get("oacd")
        if table is None or not set(variants) <= set(table["variant"]):
            return Finding()
        rows = table[table["variant"].isin(variants)]
        groups = table[table["variant"].isin([AS_IT_IS, *variants])].groupby("variant", sort=False)
        said = tuple(
            f"{name}: {group['convergence_rate'].mean():.0%} after {group['passes'].mean():.0f} passes, "
            f"{count(len(group), 'seed')}"
            for name, group in groups
        )
        if rows.groupby("variant").size().min() < FEWEST_SEEDS:
            return Finding(UNTOLD, said)
        # Where the last pass that was allowed ends, nobody knows what more of them would have brought.
        in_these = f"{HOLDS} within {rows['passes'].max():.0f} passes"
        return Finding(in_these if (rows["convergence_rate"] < CONVERGED).all() else FAILS, said)

    return Judge(find)


def few_passes(evidence: Evidence) -> Finding:
    """Judge that OACD brings every recurrence to the share that counts as converged in some 60 passes."""
    found = evidence.passes_to(CONVERGED)
    if found.empty:
        return Finding()
    by_settings = found.groupby(["rate", "noise"])
    settings = {key: f"at a rate of {key[0]:g} and noise of {key[1]:g}" for key, _ in by_settings}
    by_arm = found.groupby(["rate", "noise", "arm"])
    seeds = int(by_arm["seed"].nunique().max())
    counts = []
    for (rate, noise, arm), values in by_arm["passes"]:
        missed = f"{values.isna().sum()} of {len(values)} blocks never"
        counted = missed if values.isna().any() else f"{values.median():.0f} passes"
        counts.append(f"{arm}: {counted}" + f" {settings[rate, noise]}" * (len(settings) > 1))
    said = (*counts, f"{count(seeds, 'seed')} at most")
    if seeds < FEWEST_SEEDS:
        return Finding(UNTOLD, said)
    reached = (found["passes"] <= PASSES).groupby([found[name] for name in ("rate", "noise", "arm")]).all()
    within = reached.groupby(level=["rate", "noise"])
    if (within.nunique() > 1).any():
        return Finding(f"{DEPENDS} on the method", said)
    if reached.nunique() > 1:
        return Finding(f"{DEPENDS} on rate and noise", said)
    return Finding(f"{HOLDS if reached.iloc[0] else FAILS} {' and '.join(settings.values())}", said)


def rank_is_trained(evidence: Evidence) -> Finding:
    """Judge that training by OACD brings the effective rank of contexts to 80 % and more, and nothing less does."""
    said, verdicts = [], []
    for setting, ranks in evidence.measures_by_setting("effective_rank", ("dproj-oacd", "dproj-random")):
        trained, left = ranks
        said.append(f"{setting}: effective rank {trained.mean():.0%} with OACD, {left.mean():.0%} as initialised")
        if min(len(trained), len(left)) >= FEWEST_SEEDS:
            verdicts.append(trained.mean() >= WELL_KNOWN and trained.min() > left.max())
    return Finding(_together_or_apart(verdicts, "the text"), tuple(said))


def _together_or_apart(verdicts: Sequence[bool], decides: str) -> str:
    """Say whether a claim holds everywhere, nowhere, or as something decides; untold where nothing could be judged."""
    if not verdicts:
        return UNTOLD
    return f"{DEPENDS} on {decides}" if len(set(verdicts)) > 1 else HOLDS if verdicts[0] else FAILS


# Settings of an arm with eight heads and a slope of ALiBi for each.
EIGHT_SLOPES = "alibi_slopes_by_head=true,num_attention_heads=8,position=alibi"

ALIBIS = ("unified@position=alibi", "unified@alibi_slopes_by_head=true,position=alibi")

# Latent attention of each encoding, and full attention of the same.
LATENTS = (
    "mla",
    "mla@alibi_slopes_by_head=true",
    "mla@alibi_slopes_by_head=true,num_attention_heads=8",
    "mla@position=rope",
)
BESIDE_LATENTS = full_attention_of([*LATENTS, "pythia", *ALIBIS, f"unified@{EIGHT_SLOPES}"])


def costs_seven_percent(evidence: Evidence) -> Finding:
    """Judge that latent attention loses no more than 7 % of perplexity, whatever its encoding."""
    by_encoding = {arm: evidence.compare(arm, "pythia") for arm in LATENTS}
    verdicts = {arm: [says_within(one, SEVEN_PERCENT) for one in found] for arm, found in by_encoding.items()}
    told = {arm: {one for one in found if one is not None} for arm, found in verdicts.items()}
    # Where each encoding has one answer in every text, the encoding is what decides.
    decides = "the text" if any(len(found) > 1 for found in told.values()) else "the encoding"
    rows = [(one, holds) for arm in LATENTS for one, holds in zip(by_encoding[arm], verdicts[arm], strict=True)]
    found = join(rows, decides=decides)
    kept = evidence.measures("pythia", "kv_bytes_per_token")
    shares = [
        f"{arm} keeps {bytes_kept.iloc[0] / kept.iloc[0]:.1%} of the bytes"
        for arm in LATENTS
        if len(bytes_kept := evidence.measures(arm, "kv_bytes_per_token")) and len(kept)
    ]
    if not found.compared:
        return found
    alike = [one for arm, full in BESIDE_LATENTS.items() if full != "pythia" for one in evidence.compare(arm, full)]
    return replace(found, notes=tuple(shares), compared=(*found.compared, *alike))


def can_be_absorbed(evidence: Evidence) -> Finding:
    """Judge that a latent model with RoPE cannot be decoded absorbed: by one that turns a key beside the latent."""
    kept = [evidence.measures(arm, "kv_bytes_per_token") for arm in ("mla@position=rope", "mla")]
    if any(values.empty for values in kept):
        return Finding()
    compared = join([(one, None) for one in evidence.compare("mla@position=rope", "mla")])
    error = absorption_error(create("mla", "tiny", position="rope").double().eval())
    # Weights are drawn anew each time: below the limit the figure itself would be another in every document.
    apart = f"at most {max(error, EXACT):.0e} from the full pass in float64"
    said = (
        f"keys that are made of the latent cannot be turned and absorbed; with a rotary key beside it, which takes "
        f"{kept[0].iloc[0] - kept[1].iloc[0]:,.0f} bytes more than {kept[1].iloc[0]:,.0f}, mla@position=rope decodes "
        f"absorbed, {apart}"
    )
    return replace(compared, verdict=f"{DEPENDS} on what is turned" if error < EXACT else HOLDS, notes=(said,))


def reversed_order(evidence: Evidence) -> Finding:
    """Judge that models differ in what they gain on facts asked backward.

    They do where two intervals have nothing in common, and do not where no two models can be further apart than
    `SAME_GAIN`; that no gain was found shows neither.
    """
    table = evidence.tables.get("reversal")
    if table is None:
        return Finding()
    taught = table[table["taught"].astype(bool)]
    first = ", ".join(f"{row['arm']} {row['forward_first']:.0%}" for row in taught.to_dict("records"))
    known = f"right name first, asked forward: {first}"
    if not (taught["forward_first"] >= WELL_KNOWN).all():
        return Finding(UNTOLD, (f"{known}: facts that are not known forward tell nothing backward",))
    gained = taught[taught["backward_gain_low"] > 0]
    said = (known, f"{len(gained)} of {len(taught)} gain backward")
    if taught["seeds"].min() < FEWEST_SEEDS or len(taught) < 2:
        return Finding(UNTOLD, said)
    lows, highs = list(taught["backward_gain_low"]), list(taught["backward_gain_high"])
    others = list(permutations(range(len(taught)), 2))
    if len(gained) and any(highs[one] < lows[other] for one, other in others):
        return Finding(HOLDS, said)
    furthest = max(highs[one] - lows[other] for one, other in others)
    if furthest <= SAME_GAIN:
        return Finding(FAILS, (*said, f"no two further apart than {SAME_GAIN:g} nats"))
    return Finding(UNTOLD, said)


def usable(evidence: Evidence) -> Finding:
    """Usable is what predicts better than counts do, in windows in which contexts are kept at all.

    Where the baseline, which keeps everything, is itself behind counts, nobody can tell what keeping less costs.
    """
    said, verdicts = [], []
    baselines = _baselines_by_data(evidence)
    for records in evidence.settings:
        rows = records[records["method"] == "context-kv"]
        rows = rows[[given["seq_length"] >= LONG_WINDOW for given in rows["parameters"]]]
        if "convergence_rate" in rows:
            rows = rows[rows["convergence_rate"] >= CONVERGED]
        for floor in floors_of(rows):
            counts = min(score.perplexity for score in floor.scores)
            said += [f"{arm}: {group['perplexity'].mean():.1f}" for arm, group in rows.groupby("arm")]
            baseline = baselines.get((floor.data, floor.seq_length), math.nan)
            said.append(f"counts of the same text {counts:.1f}, {BASELINE} {baseline:.1f}")
            if baseline < counts:
                arms = (group for _, group in rows.groupby("arm") if group["seed"].nunique() >= FEWEST_SEEDS)
                verdicts += [bool((group["perplexity"] < counts).all()) for group in arms]
    return Finding(_together_or_apart(verdicts, "the arm"), tuple(said))


def _baselines_by_data(evidence: Evidence) -> dict[tuple[str, int], float]:
    """Return the mean perplexity of the baseline by the fingerprint and the window length of what it was scored on."""
    own = [records[records["arm"] == BASELINE] for records in evidence.settings]
    return {(floor.data, floor.seq_length): rows["perplexity"].mean() for rows in own for floor in floors_of(rows)}


def parallel_is_sequential(evidence: Evidence) -> Finding:
    """Judge that contexts that are collected side by side are those collected one by one."""
    table = evidence.tables.get("collection")
    if table is None or "largest_difference" not in table:
        return Finding()
    largest = float(table["largest_difference"].max())
    said = f"largest difference {largest:.0e} {_of_tokens(table)}".strip()
    return Finding(HOLDS if largest < 1e-4 else FAILS, (said,))


def _of_tokens(table: pd.DataFrame) -> str:
    """Say over how many tokens both ways were run, where a table tells."""
    return f"over {table['tokens run'].min():,.0f} tokens" if "tokens run" in table else ""


def leak_is_seen(evidence: Evidence) -> Finding:
    """Judge that perplexity alarms where a model sees the future, and not where it does not."""
    table = evidence.tables.get("leak")
    if table is None:
        return Finding()
    rows = table.set_index("mask")
    said = "; ".join(f"{mask}: perplexity {row['perplexity']:.1f}" for mask, row in rows.iterrows())
    seen = bool(rows.loc["swapped", "alarming"]) and not bool(rows.loc["right", "alarming"])
    return Finding(f"{HOLDS} for a leak of the whole future" if seen else FAILS, (said,))


# At mini the second has its parameters, too; the last keeps fewer bytes.
CONTROLS_OF_DPROJ = ("narrow", "narrow@intermediate_size=999", "mqa")
BESIDE_DPROJ = (*CONTROLS_OF_DPROJ, "pythia")


def worth_its_bytes(evidence: Evidence) -> Finding:
    """Judge that DProj is worth its bytes: no worse than the controls that keep as many, nor than one of fewer."""
    compared = {base: evidence.compare("dproj-oacd", base) for base in BESIDE_DPROJ}
    beside_fewer = [[(one, says_no_worse(one.found)) for one in compared[base]] for base in CONTROLS_OF_DPROJ]
    by_text = any(len({holds for _, holds in rows} - {None}) > 1 for rows in beside_fewer)
    judged = join(list(chain(*beside_fewer)), decides="the control and the text" if by_text else "the control")
    return Finding(judged.verdict, compared=tuple(chain(*compared.values())))

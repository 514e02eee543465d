"""The claims of the project that came before, each with the experiment that judges it, the numbers, and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from newllm.analysis import judges
from newllm.analysis.evidence import CONVERGED, Evidence, Finding
from newllm.analysis.judges import LONG_WINDOW, WELL_KNOWN, Judge
from newllm.evaluation.verdicts import UNTOLD
from newllm.experiments.arms import LENT_EMBEDDING


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


def find_claims(records: pd.DataFrame, tables: Mapping[str, pd.DataFrame] | None = None) -> list[tuple[Claim, Finding]]:
    """Judge every claim by what is published; all that claims compare in one setting is adjusted together (Holm).

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
    list of (Claim, Finding)
        In the order of the claims.
    """
    pairs = tuple(dict.fromkeys(pair for claim in CLAIMS for pair in claim.judge.pairs))
    evidence = Evidence(records, tables or {}, pairs)
    return [(claim, claim.judge.find(evidence)) for claim in CLAIMS]


def verdicts_table(found: Sequence[tuple[Claim, Finding]]) -> pd.DataFrame:
    """Write what became of each claim.

    Parameters
    ----------
    found
        Of `find_claims`.

    Returns
    -------
    pandas.DataFrame
        One row a claim: ``claim`` (its number), ``words``, ``experiment``, ``numbers``, ``verdict`` (one of
        `newllm.evaluation.verdicts.VERDICTS`, and what it depends on or within what it holds), and ``would_tell`` (only
        where it cannot be told).
    """
    return pd.DataFrame(
        [
            {
                "claim": claim.number,
                "words": claim.words,
                "experiment": claim.experiment,
                "numbers": finding.numbers,
                "verdict": finding.verdict,
                "would_tell": claim.would_tell if finding.verdict == UNTOLD else "",
            }
            for claim, finding in found
        ]
    )


def comparisons_table(found: Sequence[tuple[Claim, Finding]]) -> pd.DataFrame:
    """Write every difference that a claim rests on.

    Parameters
    ----------
    found
        Of `find_claims`.

    Returns
    -------
    pandas.DataFrame
        One row a difference: ``claim``, ``words`` and ``verdict`` as in `verdicts_table`, ``arm``, ``base``, ``where``
        (the text and the windows), ``difference`` of the arm from the base in nats per token with ``difference_low``
        and ``difference_high``, and ``knows_seeds``, whether that interval says what another seed would find.
    """
    columns = ("difference", "difference_low", "difference_high")
    rows = [
        {"claim": claim.number, "words": claim.words, "verdict": finding.verdict}
        | {"arm": one.arm, "base": one.base, "where": one.where, "knows_seeds": one.knows_seeds}
        | {name: one.found[name] for name in columns}
        for claim, finding in found
        for one in finding.surest_first
    ]
    named = ["claim", "words", "verdict", "arm", "base", "where", "knows_seeds", *columns]
    return pd.DataFrame(rows, columns=named)


def judge_claims(records: pd.DataFrame, tables: Mapping[str, pd.DataFrame] | None = None) -> pd.DataFrame:
    """Judge every claim by what is published: the table of `verdicts_table`, from what `find_claims` takes."""
    return verdicts_table(find_claims(records, tables))


SOTU = "newllm sweep sotu with three seeds"

CLAIMS = (
    Claim(
        1,
        "embed_norm is needed for OACD to converge",
        "OACD with and without embed_norm: share of settled contexts",
        judges.fails_to_converge("without embed_norm"),
        "three seeds of projection training without embed_norm, published as the table oacd",
    ),
    Claim(
        2,
        "weights N(0, 0.1) are needed; Xavier and Kaiming fail",
        "OACD from each initialisation: share of settled contexts",
        judges.fails_to_converge("xavier", "kaiming"),
        "three seeds of projection training from each initialisation, published as the table oacd",
    ),
    Claim(
        3,
        "OACD before main training is needed",
        "dproj-oacd beside dproj-random and dproj-end-to-end, on an untrained embedding and on a lent one: test loss",
        judges.each_of(
            "the embedding that OACD learns on",
            *(
                judges.all_of(
                    judges.better(f"dproj-oacd{embedding}", f"dproj-random{embedding}"),
                    judges.better(f"dproj-oacd{embedding}", f"dproj-end-to-end{embedding}"),
                )
                for embedding in ("", f"-{LENT_EMBEDDING}")
            ),
        ),
        f"{SOTU}, newllm sweep lent_embedding likewise",
    ),
    Claim(
        4,
        "about 60 passes reach 90 %",
        f"whether {CONVERGED:.0%} of the contexts have settled after {judges.PASSES} passes at most; of the earlier "
        "project's rate of 0.002 and noise of 0.1 no record is published (RESULTS, Recipe)",
        Judge(judges.few_passes),
        "an arm with a recurrence, with three seeds",
    ),
    Claim(
        5,
        "an effective rank of 80 % and more is OACD's work",
        "effective rank of dproj-oacd beside dproj-random",
        Judge(judges.rank_is_trained),
        SOTU,
    ),
    Claim(
        6,
        "blocks need different data",
        "cascade with disjoint beside full data, blocks converged: test loss",
        judges.better("cascade-oacd", "cascade-oacd@data_split=full", convergence_rate=CONVERGED),
        "both with three seeds, at settings that bring every block to 90 %",
    ),
    Claim(
        7,
        "two blocks of 500 beat one of 500 and one of 1000",
        "cascade (two blocks of 168) beside one of its blocks, and beside one of 336, blocks converged: test loss",
        judges.within(
            "for two of 168",
            judges.all_of(
                judges.better("cascade-oacd", "cascade-oacd@num_blocks=1", convergence_rate=CONVERGED),
                judges.better("cascade-oacd", "cascade-oacd@context_dim=336,num_blocks=1", convergence_rate=CONVERGED),
            ),
        ),
        "both with three seeds, at settings that bring every block to 90 %",
    ),
    Claim(
        8,
        "a frozen embedding beats a trained one",
        "cascade beside itself with freeze_embedding=false, whose contexts change, so that it learns from windows and "
        "not from the stream: test loss",
        judges.better("cascade-oacd", "cascade-oacd@freeze_embedding=false"),
        "both with three seeds, on an embedding of a lender that has read all the text",
    ),
    Claim(
        9,
        "tying the embedding to the head costs nothing",
        "cascade beside itself with tie_word_embeddings=false: test loss",
        judges.no_worse("cascade-oacd", "cascade-oacd@tie_word_embeddings=false"),
        "both with three seeds",
    ),
    Claim(
        10,
        "MLA saves 87.5 % of the cache for 7 % of perplexity",
        "mla under each encoding beside pythia: test loss within ln 1.07; and beside full attention of its encoding",
        Judge(
            judges.costs_seven_percent,
            (*((arm, "pythia") for arm in judges.LATENTS), *judges.BESIDE_LATENTS.items()),
        ),
        SOTU,
    ),
    Claim(
        11,
        "one slope of ALiBi for all heads is enough",
        "mla beside itself with a slope for each head: test loss",
        judges.no_worse("mla", "mla@alibi_slopes_by_head=true"),
        "both with three seeds",
    ),
    Claim(
        12,
        "RoPE cannot be absorbed",
        "mla@position=rope decoded absorbed, its bytes a token, and its test loss beside mla",
        Judge(judges.can_be_absorbed, (("mla@position=rope", "mla"),)),
        SOTU,
    ),
    Claim(
        13,
        "RoPE is ahead of ALiBi, and ALiBi of no encoding, in perplexity",
        "pythia (RoPE) beside unified with ALiBi, of one slope and of one a head, and those beside none: test loss",
        judges.each_of(
            "the slopes",
            *(
                judges.all_of(judges.better("pythia", alibi), judges.better(alibi, "unified@position=none"))
                for alibi in judges.ALIBIS
            ),
        ),
        SOTU,
    ),
    Claim(
        14,
        "the models differ in how well they know reversed facts",
        f"margin gained backward, where the right name is first forward in {WELL_KNOWN:.0%}",
        Judge(judges.reversed_order),
        "three seeds (newllm run 05)",
    ),
    Claim(
        15,
        "Context-KV is usable with 1 % of the cache",
        f"converged context-kv beside counts on the same windows of {LONG_WINDOW} or more, where pythia beats them",
        Judge(judges.usable),
        f"three seeds of context-kv in windows of {LONG_WINDOW}, of so much text that pythia is ahead of counts",
    ),
    Claim(
        16,
        "contexts computed in parallel equal those computed one by one",
        "largest difference of the two over one stream",
        Judge(judges.parallel_is_sequential),
        "notebook 09, published with its table collection_speed",
    ),
    Claim(
        17,
        "the perplexity table finds leaks",
        "a model with the mask swapped, trained beside the right one",
        Judge(judges.leak_is_seen),
        "notebook 03 at the cpu profile, published with its table leak",
    ),
    Claim(
        18,
        "DProj saves 37.5 % of the cache",
        "dproj-oacd beside narrow, which keeps the same bytes (also with as many parameters), and mqa, which keeps "
        "fewer: test loss",
        Judge(judges.worth_its_bytes, tuple(("dproj-oacd", base) for base in judges.BESIDE_DPROJ)),
        SOTU,
    ),
)

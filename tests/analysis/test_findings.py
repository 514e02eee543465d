"""What a comparison shows, in sentences: computed from its summary, with no verdict where seeds are too few."""

import numpy as np
import pandas as pd

from newllm.analysis.differences import OTHER_BUDGET
from newllm.analysis.findings import findings, seeds_can_tell
from newllm.evaluation.verdicts import BETTER, OPEN, WORSE

COLUMNS = ["arm", "kv_bytes_per_token", "perplexity", "difference", "verdict"]


def summary(rows, seeds=2):
    table = pd.DataFrame(rows, columns=COLUMNS)
    ends = {"difference_low": table.difference - 0.01, "difference_high": table.difference + 0.01}
    return table.assign(seeds=seeds, equal_budget=table.verdict != OTHER_BUDGET, **ends)


BASE = ("pythia", 8192.0, 48.0, np.nan, "")
FULL = ("unified@position=alibi", 8192.0, 46.0, -0.05, BETTER)
SMALL = ("mqa@num_attention_heads=8", 1024.0, 47.9, 0.002, OPEN)
SMALLEST = ("mla", 512.0, 54.0, 0.12, WORSE)


def test_the_best_the_verdicts_and_the_smallest_cache_are_named_in_words():
    best, beside, smallest = findings(summary([BASE, FULL, SMALL, SMALLEST]), "pythia")
    assert "`unified: ALiBi`" in best and "46.0" in best and "as many as `pythia`" in best
    assert "better: 1 (`unified: ALiBi`)" in beside
    assert "cannot be told: 1 (`mqa: 8 heads`)" in beside
    assert "worse: 1 (`mla`)" in beside
    assert "1,024 bytes a token, 12.5% of those of `pythia`, by `mqa: 8 heads` (cannot be told, which is no" in smallest


def test_one_document_gives_no_verdict():
    rows = [(*row[:4], OPEN if row[4] else "") for row in (BASE, FULL, SMALL, SMALLEST)]
    _, beside = findings(summary(rows).assign(difference_low=np.nan, difference_high=np.nan), "pythia")
    assert "of one document" in beside and "no arm is called better or worse" in beside


def test_one_seed_gives_no_verdict():
    rows = [(*row[:4], OPEN if row[4] else "") for row in (BASE, FULL, SMALL, SMALLEST)]
    _, beside, smallest = findings(summary(rows, seeds=1), "pythia")
    assert "With one seed this is no verdict" in beside
    assert "lower loss: 1 (`unified: ALiBi`)" in beside and "higher loss: 1 (`mla`)" in beside
    assert "better" not in beside and "worse" not in beside
    assert smallest.endswith("by `mqa: 8 heads` (cannot be told, which is no proof that it is as good).")


def test_of_many_arms_the_furthest_are_named():
    rows = [BASE, *((f"arm{place}", 1024.0, 50.0 + place, 0.02 * place, WORSE) for place in range(1, 6))]
    _, beside, smallest = findings(summary(rows), "pythia")
    assert "worse: 5 (`arm5`, `arm4`, `arm3`, ...)" in beside
    assert smallest.startswith("No arm with a smaller cache")


def test_arms_behind_counts_are_named_and_rows_of_another_budget_never():
    other = ("gpt2", 256.0, 30.0, np.nan, OTHER_BUDGET)
    counts = ("4-gram", np.nan, 53.0, 0.1, WORSE)
    *_, behind = said = findings(summary([BASE, FULL, SMALLEST, counts, other]), "pythia")
    assert "4-gram, 53.0" in behind and behind.endswith("1 (`mla`).")
    assert "gpt2" not in " ".join(said)


def test_an_arm_behind_counts_has_no_cache_to_recommend():
    trained, weak = ("mla", 1024.0, 47.0, -0.02, BETTER), ("mqa", 512.0, 60.0, 0.02, OPEN)
    counts = ("4-gram", np.nan, 53.0, 0.1, WORSE)
    *_, smallest, behind = findings(summary([BASE, trained, weak, counts]), "pythia")
    assert smallest.endswith("1,024 bytes a token, 12.5% of those of `pythia`, by `mla` (better).")
    assert behind.endswith("1 (`mqa`).")
    # Nothing is said of caches where no smaller one is left, nor where the baseline is behind counts itself.
    for rows in ([BASE, weak, counts], [BASE, FULL, weak, counts], [(*BASE[:2], 70.0, *BASE[3:]), trained, counts]):
        assert "cache" not in " ".join(findings(summary(rows), "pythia"))


def test_without_a_baseline_or_another_arm_nothing_is_compared():
    for rows, baseline in (([FULL, SMALL], None), ([BASE], "pythia")):
        best, alone = findings(summary(rows), baseline)
        assert best.startswith("Lowest loss") and "none is called better or worse" in alone
    assert findings(summary([("4-gram", np.nan, 53.0, 0.1, WORSE)]), None) == []


def test_a_state_of_fixed_size_is_no_bytes_a_token():
    *_, smallest = findings(summary([BASE, ("cascade", 0.0, 49.0, 0.005, OPEN)]), "pythia")
    assert "a state of fixed size, by `cascade` (cannot be told" in smallest


def test_where_no_arm_keeps_less_no_cache_is_called_small():
    *_, said = findings(summary([BASE, FULL]), "pythia")
    assert said == "No arm here keeps less than `pythia`."


def test_seeds_tell_where_two_arms_have_two_or_one_has_three_or_a_verdict_was_given():
    rows = [BASE, (*FULL[:4], OPEN), (*SMALL[:4], OPEN)]
    for seeds, can in (([1, 1, 1], False), ([2, 1, 1], False), ([2, 2, 1], True), ([3, 1, 1], True)):
        assert seeds_can_tell(summary(rows, seeds)) == can
    # A part of a table holds verdicts that rest on all of its rows.
    assert seeds_can_tell(summary([BASE, FULL], 1))

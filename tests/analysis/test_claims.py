"""Claims are judged by what is published: nothing is told of what is not there, and what is there decides."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from newllm import figures
from newllm.analysis import judges
from newllm.analysis.claims import CLAIMS, comparisons_table, find_claims, judge_claims
from newllm.analysis.evidence import Evidence, plain_verdict
from newllm.config.experiment import ExperimentParameters
from newllm.evaluation.verdicts import FAILS, HOLDS, UNTOLD, VERDICTS
from newllm.experiments.arms import Arm
from newllm.experiments.floor import Floor, NGramScore
from newllm.figures.claims import LIMIT, VERDICT_COLOURS

WINDOWS, SEEDS = 90, (0, 1, 2)
GROUPS = np.repeat(np.arange(18), 5)
NOTHING = pd.DataFrame()


class Published:
    """Records of arms that lie so many nats above others on the same windows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.hard = np.random.default_rng(1).normal(4, 1, WINDOWS)

    def add(self, arm: str, loss: float, seeds=SEEDS, convergence=None, passes=None, rank=None, **settings) -> None:
        parsed = Arm.parse(arm)
        given = {"profile": "cpu", "samples": 9, "seq_length": 256, "epochs": 1, "arms": [arm], "seeds": list(seeds)}
        parameters = ExperimentParameters(**given | settings)
        noise = np.random.default_rng(len(self.rows))
        for seed in seeds:
            place = self.folder / f"{len(self.rows)}-{parsed.folder_name}-{seed}"
            place.mkdir(parents=True)
            losses = self.hard + loss + noise.normal(0, 0.01, WINDOWS)
            scores = {"window_losses": losses.tolist(), "window_groups": GROUPS.tolist()}
            (place / "evaluation.json").write_text(json.dumps(scores))
            rows = [
                {"block": 0, "iteration": number, "convergence_rate": number / (passes or 1)}
                for number in range(1, (passes or 0) + 1)
            ]
            (place / "history.json").write_text(json.dumps({"main": [], "projection": rows}))
            identity = parameters.trial_identity(
                arm, seed, trains_projection=parsed.trains_projection, reads_stream=parsed.reads_stream
            )
            row = {"arm": arm, "method": parsed.method, "seed": seed, "parameters": identity | {"data": "a1"}}
            row |= {"perplexity": float(np.exp(losses.mean())), "validation_loss": loss, "folder": place}
            row |= {"convergence_rate": convergence, "effective_rank": rank, "kv_bytes_per_token": 1024.0}
            self.rows.append(row)

    def count(self, perplexities: dict[int, float], seq_length: int = 256) -> None:
        """Leave what n-grams reach on the same windows, by their order."""
        scores = tuple(
            NGramScore(order=order, perplexity=limit, bits_per_byte=1, window_losses=(math.log(limit),))
            for order, limit in perplexities.items()
        )
        floor = Floor(data="a1", seq_length=seq_length, window_groups=(0,), scores=scores, duration_seconds=1)
        (self.folder / "floors").mkdir(exist_ok=True)
        (self.folder / f"floors/a1-{seq_length}.json").write_text(floor.model_dump_json())

    def judged(self, claim: int, tables=None) -> dict[Any, Any]:
        judged = judge_claims(pd.DataFrame(self.rows), tables)
        return judged[judged["claim"] == claim].to_dict("records")[0]

    def differences(self, claim: int) -> list[float]:
        """What a claim rests on, in the order in which it is drawn."""
        compared = comparisons_table(find_claims(pd.DataFrame(self.rows)))
        return list(compared[compared["claim"] == claim]["difference"])


@pytest.fixture
def published(tmp_path):
    return Published(tmp_path)


def test_without_records_nothing_is_told_and_every_claim_says_what_would(published):
    judged = judge_claims(NOTHING)
    assert list(judged["claim"]) == list(range(1, 19))
    assert set(judged["verdict"]) == {UNTOLD}
    assert (judged["would_tell"] != "").all()
    assert (judged["numbers"] == "").all()


def test_every_arm_that_a_claim_names_can_be_trained(published, monkeypatch):
    named = set()

    def note(evidence, arm, base, least=None):
        named.update((arm, base))
        return []

    monkeypatch.setattr(Evidence, "compare", note)
    for claim in CLAIMS:
        claim.judge.find(Evidence(NOTHING))
    assert len(named) > 10
    settings = ExperimentParameters(profile="cpu", samples=9, seq_length=256, epochs=1, arms=["pythia"], seeds=[0])
    for name in named:
        assert Arm.parse(name).as_trained(settings).name == name, "records have the name that an arm is trained under"


def test_a_treatment_is_needed_where_both_others_are_worse(published):
    published.add("dproj-oacd", 0.0)
    published.add("dproj-random", 0.1)
    assert published.judged(3)["verdict"] == UNTOLD
    published.add("dproj-end-to-end", 0.1)
    assert published.judged(3)["verdict"] == HOLDS
    assert published.judged(3)["would_tell"] == ""
    for treatment, loss in {"oacd": 0.1, "random": 0.0, "end-to-end": 0.0}.items():
        published.add(f"dproj-{treatment}-lent-embedding", loss)
    assert published.judged(3)["verdict"] == "depends on the embedding that OACD learns on"


def test_what_settings_contradict_depends_on_them(published):
    for source, alibi in (("sotu", 0.1), ("stdlib", -0.1)):
        published.add("pythia", 0.0, source=source)
        published.add("unified@position=alibi", alibi, source=source)
        published.add("unified@position=none", 0.3, source=source)
    found = published.judged(13)
    assert found["verdict"] == "depends on the text"
    in_sotu, in_stdlib = found["numbers"].split(". ")
    assert in_sotu.startswith("sotu, 9 windows of 256: pythia from unified@position=alibi -0.100")
    assert "(better)" in in_sotu and "(worse)" not in in_sotu
    assert in_stdlib.startswith("stdlib, 9 windows of 256: pythia from unified@position=alibi +0.100")
    assert "(worse)" in in_stdlib


def test_encodings_are_ordered_by_their_slopes(published):
    for arm, loss in (("pythia", 0.0), ("unified@position=alibi", 0.1), ("unified@position=none", 0.3)):
        published.add(arm, loss)
    assert published.judged(13)["verdict"] == HOLDS, "what nobody has tried says nothing"
    published.add("unified@alibi_slopes_by_head=true,position=alibi", -0.1)
    found = published.judged(13)
    assert found["verdict"] == "depends on the slopes"
    assert published.differences(13) == pytest.approx([-0.1, -0.2, 0.1, -0.4], abs=0.005)
    assert found["numbers"].count("pythia from ") == 2


def test_each_arm_stands_at_the_rate_of_most_seeds_then_at_its_best(published):
    published.add("pythia", 0.0, lr=1e-3)
    published.add("mla", -0.5, seeds=(0,), lr=1e-4)
    published.add("mla", 0.05, lr=2e-3)
    published.add("mla", 0.04, lr=3e-3)
    found = published.judged(10)
    assert found["verdict"] == HOLDS
    assert published.differences(10) == pytest.approx([0.04], abs=0.005)
    # So at rates of matrices, which stand beside the others.
    published.add("mla", 0.02, lr=1e-3, matrix_lr=4e-3)
    assert published.differences(10) == pytest.approx([0.02], abs=0.005)
    assert published.judged(10)["numbers"].count(" nats ") == 1, "rates are no settings"
    published.add("mla@position=rope", 0.3)
    assert published.judged(10)["verdict"] == "depends on the encoding"
    published.add("unified@position=alibi", 0.01)
    found = published.judged(10)
    assert "mla from unified@position=alibi +0.0" in found["numbers"], "beside full attention of its encoding"
    assert found["verdict"] == "depends on the encoding"


def test_every_latent_has_full_attention_of_its_encoding_beside_it():
    assert tuple(judges.BESIDE_LATENTS) == judges.LATENTS
    assert list(judges.BESIDE_LATENTS.values()) == [*judges.ALIBIS, f"unified@{judges.EIGHT_SLOPES}", "pythia"]


def test_an_interval_over_documents_alone_decides_nothing(published):
    """Of one seed nobody knows what another would find, however far an interval lies from the limit."""
    for arm, loss in (("pythia", 0.0), ("mla", 0.3), ("dproj-oacd", 0.0), ("dproj-random", 0.0)):
        published.add(arm, loss, seeds=(0,), passes=30 if arm == "dproj-oacd" else None, rank=0.9)
    for claim in (4, 5, 10):
        found = published.judged(claim)
        assert found["verdict"] == UNTOLD
        assert found["numbers"]


def test_what_can_be_absorbed_is_measured(published, monkeypatch):
    published.add("mla@position=rope", 0.1)
    published.add("mla", 0.2)
    assert published.judged(12)["verdict"] == "depends on what is turned"
    monkeypatch.setattr(judges, "absorption_error", lambda model: 1e-3)
    found = published.judged(12)
    assert found["verdict"] == HOLDS
    assert "1e-03 from the full pass" in found["numbers"]


def test_recurrences_that_did_not_converge_judge_no_method(published):
    for arm, loss in (("cascade-oacd", 0.0), ("cascade-oacd@data_split=full", 0.2)):
        published.add(arm, loss, convergence=0.7)
    assert published.judged(6)["verdict"] == UNTOLD
    for arm, loss in (("cascade-oacd", 0.0), ("cascade-oacd@data_split=full", 0.2)):
        published.add(arm, loss, convergence=0.95, source="stdlib")
    assert published.judged(6)["verdict"] == HOLDS


def test_what_learns_from_a_stream_borrows_no_variance_from_what_does_not(published):
    """How much a seed changes is known of windows alone here: of two cascades of one seed nothing can be told."""
    published.add("pythia", 0.0)
    for arm, loss in (("cascade-oacd", 0.0), ("cascade-oacd@context_dim=336,num_blocks=1", 0.2)):
        published.add(arm, loss, seeds=(0,), convergence=0.95)
    assert published.judged(7)["verdict"] == UNTOLD
    assert "too few seeds" in published.judged(7)["numbers"]


def test_two_blocks_have_to_beat_one_of_each_width(published):
    published.add("cascade-oacd", 0.1, convergence=0.95)
    published.add("cascade-oacd@context_dim=336,num_blocks=1", 0.2, convergence=0.95)
    assert published.judged(7)["verdict"] == UNTOLD, "one of the two is not there"
    published.add("cascade-oacd@num_blocks=1", 0.0, convergence=0.95)
    assert published.judged(7)["verdict"] == FAILS


def test_what_was_tried_at_other_widths_than_claimed_holds_for_these(published):
    for arm, loss in (("", 0.0), ("@context_dim=336,num_blocks=1", 0.2), ("@num_blocks=1", 0.3)):
        published.add(f"cascade-oacd{arm}", loss, convergence=0.95)
    assert published.judged(7)["verdict"] == f"{HOLDS} for two of 168"


def test_all_that_claims_compare_pays_together(published, monkeypatch):
    named = []
    monkeypatch.setattr(
        "newllm.analysis.evidence.compare_pairs", lambda losses, pairs: named.append(pairs) or [{}] * len(pairs)
    )
    for arm in ("pythia", "mla", "dproj-oacd", "narrow"):
        published.add(arm, 0.1)
    published.judged(10)
    assert {frozenset(pairs) for pairs in named} == {
        frozenset({("mla", "pythia"), ("dproj-oacd", "narrow"), ("dproj-oacd", "pythia")})
    }


def test_a_control_of_fewer_bytes_counts_as_well(published):
    published.add("dproj-oacd", 0.1)
    published.add("narrow", 0.2)
    assert published.judged(18)["verdict"] == HOLDS
    published.add("mqa", 0.0)
    assert published.judged(18)["verdict"] == "depends on the control"
    published.add("dproj-oacd", 0.1, source="stdlib")
    published.add("mqa", 0.2, source="stdlib")
    assert published.judged(18)["verdict"] == "depends on the control and the text"


def test_passes_and_ranks_are_counted_over_all_records(published):
    published.add("dproj-oacd", 0.0, passes=30, rank=0.7)
    published.add("dproj-random", 0.0, rank=0.9)
    passes = published.judged(4)
    assert passes["verdict"] == "holds at a rate of 0.003 and noise of 0.05"
    assert passes["numbers"] == "dproj-oacd: 27 passes; 3 seeds at most"
    assert published.judged(5)["verdict"] == FAILS
    assert "70% with OACD, 90% as initialised" in published.judged(5)["numbers"]
    published.add("dproj-oacd", 0.0, passes=100, projection_lr=0.002, proj_noise=0.1)
    passes = published.judged(4)
    assert passes["verdict"] == "depends on rate and noise"
    assert "dproj-oacd: 90 passes at a rate of 0.002 and noise of 0.1" in passes["numbers"]
    published.add("context-oacd", 0.0, passes=100)
    assert published.judged(4)["verdict"] == "depends on the method"


def test_what_reads_a_stream_trains_its_recurrences_by_values_of_its_own(published):
    published.add("cascade-oacd", 0.0, passes=30, stream_projection_lr=0.002, stream_proj_noise=0.1)
    assert published.judged(4)["verdict"] == "holds at a rate of 0.002 and noise of 0.1"


def test_arms_that_counts_beat_are_named(published):
    for arm, loss in (("pythia", 0.0), ("mla", 0.3)):
        published.add(arm, loss)
    limits = {2: math.exp(4.5), 3: published.rows[-1]["perplexity"] - 1, 4: published.rows[0]["perplexity"] + 1}
    published.count(limits)
    assert f"worse than counts of 3-grams ({limits[3]:.1f}): mla" in published.judged(10)["numbers"]


def test_what_is_usable_is_ahead_of_counts_that_the_baseline_is_ahead_of(published):
    for arm, loss in (("pythia", 0.0), ("context-kv-oacd", 0.2)):
        published.add(arm, loss, seq_length=512, convergence=0.95)
    full, kept = pd.DataFrame(published.rows).groupby("arm")["perplexity"].mean()[["pythia", "context-kv-oacd"]]
    for counts, verdict in ((full - 5, UNTOLD), ((full + kept) / 2, FAILS), (kept + 5, HOLDS)):
        published.count({3: counts}, seq_length=512)
        found = published.judged(15)
        assert found["verdict"] == verdict
        assert f"counts of the same text {counts:.1f}, pythia {full:.1f}" in found["numbers"]


def test_ranks_are_told_text_by_text(published):
    for source, rank in (("sotu", 0.85), ("stdlib", 0.7)):
        published.add("dproj-oacd", 0.0, rank=rank, source=source)
        published.add("dproj-random", 0.0, rank=0.75, source=source)
    found = published.judged(5)
    assert found["verdict"] == "depends on the text"
    assert "stdlib, 9 windows of 256: effective rank 70% with OACD, 75% as initialised" in found["numbers"]


def test_a_verdict_with_words_behind_it_is_one_of_four(published):
    said = ["holds within 99 passes", "does not hold", "depends on the text", UNTOLD]
    assert [plain_verdict(verdict) for verdict in said] == list(VERDICTS)


def asked(arm: str, gain: float, known: float = 0.9, seeds: int = 3, width: float = 2.0) -> dict[str, Any]:
    """What a table says of a model that was taught facts, and gains at least so much, and ``width`` more at most."""
    gains = {"backward_gain_low": gain, "backward_gain_high": gain + width}
    return {"arm": arm, "taught": True, "seeds": seeds, "forward_first": known} | gains


@pytest.mark.parametrize(
    ("claim", "name", "rows", "verdict"),
    [
        (
            1,
            "oacd",
            3 * [{"variant": "without embed_norm", "passes": 99, "convergence_rate": 0.1}],
            "holds within 99 passes",
        ),
        (1, "oacd", 2 * [{"variant": "without embed_norm", "passes": 99, "convergence_rate": 0.1}], UNTOLD),
        (2, "oacd", 3 * [{"variant": "xavier", "passes": 40, "convergence_rate": 0.96}], UNTOLD),
        (
            2,
            "oacd",
            3 * [{"variant": name, "passes": 40, "convergence_rate": 0.96} for name in ("xavier", "kaiming")],
            FAILS,
        ),
        (14, "reversal", [asked("mla", 1.0, known=0.2)], UNTOLD),
        # That nothing was found is no proof that there is nothing.
        (14, "reversal", [asked("mla", -1.0), asked("ka", -1.0)], UNTOLD),
        (14, "reversal", [asked("mla", -0.04, width=0.08), asked("ka", -0.03, width=0.08)], FAILS),
        (14, "reversal", [asked("mla", 0.01, width=0.08), asked("ka", 0.02, width=0.08)], FAILS),
        (14, "reversal", [asked("mla", -0.04, width=0.08), asked("ka", -0.01, width=0.08)], UNTOLD),
        (14, "reversal", [asked("mla", -0.04, width=0.08)], UNTOLD),
        (14, "reversal", [asked(arm, -0.04, seeds=1, width=0.08) for arm in ("mla", "ka")], UNTOLD),
        (14, "reversal", [asked("mla", 1.0), asked("ka", -1.0)], UNTOLD),
        (14, "reversal", [asked("mla", 3.0), asked("ka", -1.0)], HOLDS),
        (16, "collection", [{"largest_difference": 1e-6}], HOLDS),
        (
            17,
            "leak",
            [
                {"mask": "right", "perplexity": 60.0, "alarming": False},
                {"mask": "swapped", "perplexity": 1.5, "alarming": True},
            ],
            "holds for a leak of the whole future",
        ),
    ],
)
def test_tables_judge_what_no_arm_can(published, claim, name, rows, verdict):
    published.add("pythia", 0.0)
    assert published.judged(claim, {name: pd.DataFrame(rows)})["verdict"] == verdict


def test_the_picture_has_a_row_for_each_difference(published):
    published.add("dproj-oacd", 0.3)
    published.add("narrow", 0.0)
    published.add("mqa", 0.25)
    found = find_claims(pd.DataFrame(published.rows))
    figure = figures.claims(comparisons_table(found))
    drawn = {
        text: (x, symbol)
        for trace in figure.data
        if trace.text is not None
        for x, text, symbol in zip(trace.x, trace.text, trace.marker.symbol, strict=True)
    }
    assert drawn["dproj-oacd from mqa"] == (pytest.approx(0.05, abs=0.01), "circle")
    assert drawn["dproj-oacd from narrow"] == (LIMIT, "triangle-right"), "at the edge"
    written = [note.text for note in figure.layout.annotations]
    assert "<b>18  DProj saves 37.5 % of the cache: does not hold</b>" in written
    assert any(text.startswith("+0.30") for text in written), "its number is written"
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == [
        *VERDICT_COLOURS,
        "beyond the axis",
    ]
    assert tuple(VERDICT_COLOURS) == VERDICTS
    empty = figures.claims(comparisons_table(find_claims(NOTHING)))
    assert not empty.data
    assert "no claim" in empty.layout.annotations[0].text

"""Trials: which settings make another one, and whose embedding one borrows."""

from pathlib import Path

from newllm.data import prepare_data
from newllm.data.facts import FACTS
from newllm.experiments.arms import Arm
from newllm.experiments.trial import lender_of
from newllm.runs.folder import finished_runs
from tests.comparison_setup import settings, trial_of


def test_settings_that_do_not_reach_an_arm_do_not_make_it_another_trial(text_folder, tmp_path):
    def identity(arm, **changes):
        return trial_of(arm, settings(text_folder, **changes), tmp_path).run().identity

    for arm in ("pythia", "dproj-random", "cascade-random"):
        assert identity(arm) == identity(arm, max_iterations=7), arm
    for arm in ("dproj-oacd", "cascade"):
        assert identity(arm) != identity(arm, max_iterations=7), arm
    for arm in ("pythia", "dproj-oacd"):
        assert identity(arm) == identity(arm, stream_lr=0.5), arm
    for arm in ("cascade", "cascade-random", "context-kv"):
        assert identity(arm) != identity(arm, stream_lr=0.5), arm
    assert identity("pythia") == identity("pythia", pretrained="somewhere", processes=2)
    assert identity("pythia") != identity("pythia", lr=0.5)


def test_windows_with_facts_among_them_are_another_trial(finished_comparison, text_folder, tmp_path, monkeypatch):
    folder = finished_comparison[1]
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    with_facts = prepare_data(settings(text_folder), facts=FACTS[:2])
    trial = trial_of("narrow", settings(text_folder), tmp_path, with_facts.fingerprint)
    assert not trial.run().take_over(finished_runs(folder.parent))


def test_a_baseline_as_wide_as_the_cascade_lends_its_embedding(text_folder):
    for arm, expected in [("cascade", "pythia"), ("cascade@hidden_size=128", "pythia@hidden_size=128")]:
        lender = lender_of(trial_of(arm, settings(text_folder), Path("runs")))
        assert lender is not None and lender.arm == Arm.parse(expected)
    assert lender_of(trial_of("dproj", settings(text_folder), Path("runs"))) is None

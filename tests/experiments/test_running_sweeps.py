"""Sweeps that run: each trial once, what failed again, and nothing before everything is right."""

from pathlib import Path

import pandas as pd
import pytest

from newllm import cli
from newllm.experiments import comparison as experiment
from tests.experiments.sweep_files import written


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a text, and outputs and a cache of its own."""
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(" ".join(f"The river crosses road {number * k}." for k in range(20)))
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path


def tiny(home: Path, grid, name: str = "mine", **more) -> str:
    text = {"source": "text", "text_files": [str(home / "*.txt")], "tokenizer": "bpe:300", "samples": 16}
    return str(
        written(
            home,
            grid,
            name,
            parameters=text | {"seq_length": 16, "val_samples": 4, "test_samples": 4} | more,
        )
    )


def test_a_sweep_of_which_no_trial_finished_says_which_failed(home, capsys, monkeypatch):
    def fails(trial, data):
        raise OSError("disk full")

    monkeypatch.setattr(experiment, "run_trial", fails)
    assert cli.main(["sweep", tiny(home, {"arm": ["pythia"], "lr": ["1e-3", "1e-2"], "seed": [0]})]) == 1
    shown = capsys.readouterr().out
    assert shown.count("pythia with seed 0 failed: OSError: disk full") == 2
    assert "2 trials failed" in shown


def test_what_borrows_from_a_trial_that_failed_is_not_run_and_says_why(home, capsys, monkeypatch):
    trained = []

    def fails(trial, data):
        trained.append(trial.arm.name)
        raise OSError("disk full")

    monkeypatch.setattr(experiment, "run_trial", fails)
    grid = {"arm": ["pythia", "mla-lent-embedding", "cascade"], "seed": [0]}
    assert cli.main(["sweep", tiny(home, grid)]) == 1
    assert trained == ["pythia"]
    shown = capsys.readouterr().out
    for arm in ("mla-lent-embedding", "cascade-oacd"):
        assert f"{arm} with seed 0 failed: LenderFailedError: pythia with seed 0 failed, see there" in shown


def test_a_trial_that_is_a_lender_elsewhere_is_not_said_to_be_finished(home, capsys):
    grids = [
        {"arm": ["dproj-oacd-lent-embedding"], "projection_lr": ["1e-3"], "seed": [0]},
        {"arm": ["pythia"], "seed": [0]},
    ]
    assert cli.main(["sweep", tiny(home, grids), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "2 trials, 0 of them finished" in shown and "finished elsewhere" not in shown
    assert "to be run once, as what lends an embedding" in shown


def test_a_failed_trial_stops_no_other_and_only_what_is_missing_runs_again(home, capsys, monkeypatch):
    trained, failing = [], ["narrow"]
    real = experiment.run_trial

    def fails_once(trial, data):
        trained.append((trial.arm.name, trial.parameters.lr))
        if trial.arm.name in failing:
            failing.remove(trial.arm.name)
            raise OSError("disk full")
        return real(trial, data)

    monkeypatch.setattr(experiment, "run_trial", fails_once)
    file = tiny(home, {"arm": ["narrow", "pythia"], "lr": ["1e-3"], "seed": [0]})

    assert cli.main(["sweep", file, "--dry-run"]) == 0
    assert "mine: 2 trials, 0 of them finished; the others take about" in capsys.readouterr().out
    assert not (home / "outputs").exists()

    assert cli.main(["sweep", file]) == 1
    shown = capsys.readouterr().out
    assert "narrow with seed 0 failed: OSError: disk full" in shown
    assert len(trained) == 2
    results = pd.read_csv(home / "outputs" / "sweeps" / "mine" / "tables" / "results.csv")
    assert sorted(results["arm"]) == ["2-gram", "3-gram", "4-gram", "pythia"]

    trained.clear()
    assert cli.main(["sweep", file, "-p", "lr=[1e-3, 0.01]"]) == 0
    assert sorted(trained) == [("narrow", 1e-3), ("narrow", 0.01), ("pythia", 0.01)]
    shown = capsys.readouterr().out
    assert "4 trials, 1 of them finished" in shown
    best = pd.read_csv(home / "outputs" / "sweeps" / "mine" / "tables" / "best_learning_rates.csv")
    assert sorted(best["arm"]) == ["narrow", "pythia"]
    assert "stablished" in shown

    trained.clear()
    assert cli.main(["sweep", file, "-p", "lr=[1e-3, 0.01]"]) == 0
    assert trained == []
    assert "4 trials, 4 of them finished" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--dry-run"], []])
def test_a_checkpoint_of_another_model_is_refused_before_any_trial(home, arguments, capsys):
    first = tiny(home, {"arm": ["dproj"], "max_iterations": [2], "seed": [0]})
    assert cli.main(["sweep", first]) == 0
    (checkpoint,) = (home / "outputs").rglob("dproj-oacd-seed0/projection")
    grid = {"arm": ["pythia", "context"], "seed": [0]}
    second = tiny(home, grid, name="second", projection_checkpoint=str(checkpoint))
    assert cli.main(["sweep", second, *arguments]) == 2
    assert "context_dims is" in capsys.readouterr().out
    assert not (home / "outputs" / "sweeps" / "second").exists()


@pytest.mark.parametrize("arguments", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("axis", "more", "message"),
    [
        (
            {"repeated_passages": [1, 500]},
            {"seq_length": 128, "val_samples": 1, "test_samples": 1},
            "repeated_passages=500 is more than the scored text has room for",
        ),
        (
            {"batch_size": [8, 10_000]},
            {"samples": "all", "warmup": 0.1},
            "arm 'pythia': warmup is 0.1, but that takes all of training (1 step)",
        ),
    ],
)
def test_what_the_text_rules_out_is_refused_before_any_trial(home, arguments, axis, more, message, capsys):
    file = tiny(home, {"arm": ["pythia"], "seed": [0]} | axis, **more)
    assert cli.main(["sweep", file, *arguments]) == 2
    assert message in capsys.readouterr().out
    assert not (home / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smok"], "did you mean smoke"),
        (["no.yaml"], "no.yaml is not a file"),
        (["smoke", "-p", "sampels=3"], "did you mean samples"),
        (["smoke", "-p", "arm="], "the axis arm has no value"),
        (["smoke", "--processes", "0"], "--processes is 0"),
    ],
)
def test_nothing_is_written_before_everything_is_right(home, arguments, message, capsys):
    assert cli.main(["sweep", *arguments]) == 2
    assert message in capsys.readouterr().out
    assert not (home / "outputs").exists()

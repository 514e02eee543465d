"""``newllm train``: one trial, its folder, and what several processes cannot share."""

import json
import shutil

import pytest

from newllm import cli
from newllm.commands import train as command
from newllm.commands.arguments.train import planned_parameters
from newllm.config.errors import ParameterError
from newllm.experiments import reuse
from newllm.experiments.arms import Arm
from newllm.experiments.scoring import EVALUATION_FILE, HISTORY_FILE
from newllm.files import SAVED_MODEL
from newllm.runs.publishing import plan_publication
from newllm.runs.record import RECORD_FILE
from tests.comparison_setup import write_texts


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a text, and outputs and a cache of its own."""
    write_texts(tmp_path)
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path


def arguments(home, arm: str, *more: str) -> list[str]:
    given = {"source": "text", "text_files": f"[{home}/*.txt]", "tokenizer": "bpe:300", "samples": 16, "seq_length": 16}
    given |= {"val_samples": 4, "test_samples": 4, "device": "cpu"}
    assignments = [part for key, value in given.items() for part in ("-p", f"{key}={value}")]
    return ["train", arm, "--profile", "smoke", "--seed", "2", *assignments, *more]


def test_a_trial_is_trained_once_and_shown(home, capsys):
    assert cli.main(arguments(home, "pythia")) == 0
    shown = capsys.readouterr().out
    (record,) = (home / "outputs" / "train").glob("smoke-*/pythia-seed2/record.json")
    assert json.loads(record.read_text())["seed"] == 2
    assert str(record.parent) in shown
    assert "1 trial trained" in shown
    assert cli.main(arguments(home, "unified@position=rope")) == 0  # the same by another name
    shown = capsys.readouterr().out
    assert "to train" not in shown
    assert "was finished before: nothing is trained" in shown
    assert str(record.parent) in shown


def test_a_trial_that_is_published_without_weights_is_trained(home, monkeypatch):
    published = home / "reference"
    monkeypatch.setattr(reuse, "reference_folder", lambda: published)
    assert cli.main(arguments(home, "pythia")) == 0
    (trial,) = (home / "outputs" / "train").glob("smoke-*/pythia-seed2")
    plan_publication(trial, published / "pythia-seed2", [RECORD_FILE, EVALUATION_FILE, HISTORY_FILE]).write()
    shutil.rmtree(home / "outputs")
    assert cli.main(arguments(home, "pythia")) == 0
    assert (trial / SAVED_MODEL).is_dir()


@pytest.mark.parametrize(
    ("arm", "more", "message"),
    [
        ("pythai", [], "did you mean 'pythia'"),
        ("pythia", ["-p", "processes=2"], "processes is not for -p here: accelerate launch gives it"),
        ("pythia", ["-p", "seeds=[1]"], "seeds is not for -p here: --seed gives it"),
        ("pythia", ["-p", "rerun=true"], "rerun is not for -p here: delete the folder of the trial"),
        ("pythia", ["-p", "output_folder=elsewhere"], "output_folder is not for -p here: the trial goes"),
        ("pythia", ["-p", "benchmarks=[lambada]"], "benchmarks is not for -p here: newllm evaluate asks"),
        ("pythia", ["-p", "pretrained=[a/b]"], "pretrained is not for -p here: one arm is trained here"),
        ("pythia", ["-p", "batch_size=16", "-p", "warmup=0.1"], "that takes all of training (1 step)"),
        ("pythia", ["-p", "evaluations=3"], "evaluations is 3, but a pass has 2 steps"),
        ("pythia", ["-p", "sampels=3"], "did you mean samples"),
        ("mla@kv_dim=0", [], "kv_dim=0 must be at least 1"),
        ("pythia", ["-p", "precision=tf32"], "precision is tf32, which cpu has not"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(home, arm, more, message, capsys):
    assert cli.main(arguments(home, arm, *more)) == 2
    assert message in capsys.readouterr().out
    assert not (home / "outputs").exists()


def test_more_repeated_passages_than_there_is_room_for_are_refused_before_anything_is_trained(home, capsys):
    few = {"source": "text", "text_files": f"[{home}/*.txt]", "tokenizer": "bpe:300", "seq_length": 128, "samples": 4}
    few |= {"val_samples": 1, "test_samples": 1, "device": "cpu", "repeated_passages": 500}
    assignments = [part for key, value in few.items() for part in ("-p", f"{key}={value}")]
    assert cli.main(["train", "pythia", "--profile", "smoke", *assignments]) == 2
    assert "repeated_passages=500 is more than the scored text has room for" in capsys.readouterr().out
    assert not (home / "outputs").exists()


@pytest.mark.parametrize(
    ("arm", "environment", "message"),
    [
        ("cascade", {}, "one continuous stream, which 3 processes cannot share"),
        ("pythia", {}, "batch_size is 8, which 3 processes cannot share equally"),
        ("pythia", {"ACCELERATE_USE_FSDP": "true"}, "without FSDP"),
    ],
)
def test_what_processes_cannot_share_is_refused(home, arm, environment, message, monkeypatch):
    monkeypatch.setattr(command, "process_count", lambda: 3)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = cli._parser().parse_args(arguments(home, arm, "-p", "batch_size=8"))
    parameters = planned_parameters(options)
    with pytest.raises(ParameterError, match=message):
        command._refuse_what_cannot_be_shared(Arm.parse(arm), parameters)

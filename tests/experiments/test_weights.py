import logging
import shlex

import pandas as pd

from newllm.config.profiles import load_parameters
from newllm.config.values import read_value
from newllm.experiments.weights import measure_trials, with_weights


def test_trials_without_weights_are_left_out_and_named_with_the_command(tmp_path, caplog):
    (tmp_path / "pythia" / "model").mkdir(parents=True)
    records = pd.DataFrame({"arm": ["pythia", "mla"], "folder": [tmp_path / "pythia", tmp_path / "mla"]})
    parameters = load_parameters("06_latent_attention", "smoke", {})
    with caplog.at_level(logging.INFO, "newllm"):
        assert list(with_weights(records, parameters).arm) == ["pythia"]
        assert "1 of 2 arms are published without weights" in caplog.text
        assert "`newllm run 06 --profile smoke -p 'arms=[mla]' --rerun` trains them" in caplog.text
        caplog.clear()
        with_weights(records[:1], parameters)
        assert with_weights(records[:0], parameters).columns.equals(records.columns)
        assert not caplog.text


def test_arms_that_were_measured_before_are_counted_among_all_and_named_as_others(tmp_path, caplog):
    """As 22 of 22 they stood above a picture of two others."""
    records = pd.DataFrame({"arm": ["mla", "mqa"], "folder": [tmp_path / "mla", tmp_path / "mqa"]})
    parameters = load_parameters("11_recall", "smoke", {})
    with caplog.at_level(logging.INFO, "newllm"):
        with_weights(records, parameters, {"pythia"})
    said = "2 of 3 arms are published without weights, and 1 other was measured before: `newllm run 11"
    assert said in caplog.text


def test_of_many_arms_without_weights_one_is_named_in_a_command_that_can_be_given(tmp_path, caplog):
    """An arm of several settings has a comma, at which a list would be parted."""
    first = "mla@kv_dim=8,position=rope"
    arms = [first, "mqa", "narrow", "ka"]
    records = pd.DataFrame({"arm": arms, "folder": [tmp_path / str(place) for place in range(4)]})
    parameters = load_parameters("02_main_training", "smoke", {})
    with caplog.at_level(logging.INFO, "newllm"):
        with_weights(records, parameters)
    assert "4 of 4 arms" in caplog.text and "narrow" not in caplog.text
    command = shlex.split(caplog.text.split("`")[1])
    name, _, value = command[command.index("-p") + 1].partition("=")
    assert (name, read_value(value)) == ("arms", [first])


def test_trained_models_that_were_only_scored_are_no_trials(tmp_path, caplog):
    names = ["pythia", "checkpoint:here", "pretrained:gpt2"]
    records = pd.DataFrame({"arm": names, "folder": [tmp_path / str(place) for place in range(3)]})
    (tmp_path / "0" / "model").mkdir(parents=True)
    (tmp_path / "1" / "model").mkdir(parents=True)
    parameters = load_parameters("06_latent_attention", "smoke", {})
    with caplog.at_level(logging.INFO, "newllm"):
        assert list(with_weights(records, parameters).arm) == ["pythia"]
        assert not caplog.text


def test_what_was_measured_of_other_weights_is_measured_again(tmp_path, monkeypatch):
    """A trial that is trained anew in its place has the same identity; what is published says of no weights."""
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path))
    folder = tmp_path / "11_recall" / "run"
    weights = folder / "pythia-seed0" / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    row = {"arm": "pythia", "seed": 0, "folder": folder / "pythia-seed0", "parameters": {"data": "a1"}}
    parameters = load_parameters("11_recall", "smoke", {})

    def measured(trained: str | None) -> list[str]:
        weights.unlink(missing_ok=True)
        if trained is not None:
            weights.write_text(trained)
        found = measure_trials(pd.DataFrame([row]), parameters, folder, "needles", {}, read)
        return list(found["needles"]["read"])

    def read(trial):
        return {"needles": pd.DataFrame([{"read": weights.read_text()}])}

    assert measured("first") == ["first"]
    assert measured(None) == ["first"]
    assert measured("second") == ["second"]
    monkeypatch.setattr("newllm.experiments.weights.do_part", None)
    assert measured("second") == ["second"]

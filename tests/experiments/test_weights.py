import logging

import pandas as pd

from newllm.config.profiles import load_parameters
from newllm.experiments.weights import with_weights


def test_trials_without_weights_are_left_out_and_named_with_the_command(tmp_path, caplog):
    (tmp_path / "pythia" / "model").mkdir(parents=True)
    records = pd.DataFrame({"arm": ["pythia", "mla"], "folder": [tmp_path / "pythia", tmp_path / "mla"]})
    parameters = load_parameters("06_latent_attention", "smoke", {})
    with caplog.at_level(logging.INFO, "newllm"):
        assert list(with_weights(records, parameters).arm) == ["pythia"]
        assert "weights of mla are" in caplog.text
        assert 'newllm run 06 --profile smoke -p "arms=[mla]" --rerun' in caplog.text
        caplog.clear()
        with_weights(records[:1], parameters)
        assert with_weights(records[:0], parameters).columns.equals(records.columns)
        assert not caplog.text


def test_trained_models_that_were_only_scored_are_no_trials(tmp_path, caplog):
    names = ["pythia", "checkpoint:here", "pretrained:gpt2"]
    records = pd.DataFrame({"arm": names, "folder": [tmp_path / str(place) for place in range(3)]})
    (tmp_path / "0" / "model").mkdir(parents=True)
    (tmp_path / "1" / "model").mkdir(parents=True)
    parameters = load_parameters("06_latent_attention", "smoke", {})
    with caplog.at_level(logging.INFO, "newllm"):
        assert list(with_weights(records, parameters).arm) == ["pythia"]
        assert not caplog.text

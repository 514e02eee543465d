"""Trained models read windows longer than those of their training: once, and taken over where weights are gone."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from newllm.config.notebooks import PositionEncodings
from newllm.data.windows import TokenWindows
from newllm.evaluation.perplexity import extrapolate
from newllm.experiments.extrapolation_study import extrapolations
from newllm.experiments.scoring import PRETRAINED
from newllm.models import create


def test_every_trained_model_is_scored_beyond_its_training_length(tmp_path, capfd):
    ids = np.random.default_rng(0).integers(512, size=6 * 20 + 1).astype(np.uint16)
    windows = TokenWindows(ids, 20, np.ones(512, dtype=np.int64))
    given = {"profile": "test", "samples": 6, "seq_length": 20, "epochs": 1, "arms": ["unified"], "seeds": [0]}
    parameters = PositionEncodings(**given, test_samples=6, extrapolation_factors=[1, 3])
    models, rows = {}, [{"arm": PRETRAINED, "seed": 0, "folder": tmp_path / "nothing is saved here", "parameters": {}}]
    for seed, position in enumerate(("rope", "none")):
        torch.manual_seed(seed)
        models[position] = create("unified", "tiny", position=position, initializer_range=0.3)
        models[position].save_pretrained(tmp_path / position / "model")
        known = {"arm": position, "seed": seed, "parameters": {"arms": [position]}}
        rows.append(known | {"folder": tmp_path / position})
    capfd.readouterr()
    table = extrapolations(pd.DataFrame(rows), parameters, windows, tmp_path / "run")
    assert capfd.readouterr().err == "", "a progress bar would be an output of the notebook"
    assert list(table["arm"]) == ["rope", "rope", "none", "none"]
    assert list(table["seed"]) == [0, 0, 1, 1]
    assert list(table["seq_length"]) == [20, 60] * 2
    for position, model in models.items():
        alone = extrapolate(model, windows, factors=(1, 3))
        assert list(table.loc[table["arm"] == position, "perplexity"]) == pytest.approx(list(alone["perplexity"]))
        # Without the weights it is told what was measured with them.
        shutil.rmtree(tmp_path / position / "model")
    again = extrapolations(pd.DataFrame(rows), parameters, windows, tmp_path / "run")
    pd.testing.assert_frame_equal(again, table)

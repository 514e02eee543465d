"""Contexts cut short: the whole window is the ordinary loss, and a model loses nothing that it did not use."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from newllm.evaluation.perplexity import NonFiniteScoreError, score_rows
from newllm.evaluation.truncation import ASKED, score_truncated
from tests.evaluation.toys import VOCABULARY, Forgets, NotANumber, Toy, sharp_model

DOCUMENTS = np.array([0, 0, 1, 1, 2])


@pytest.fixture(scope="module")
def windows():
    return np.random.default_rng(0).integers(0, VOCABULARY, (5, 65))


class SeesTheLast(nn.Module):
    """Its logits are a fixed function of the last ``reach`` tokens, in their order."""

    def __init__(self, reach):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.tables = torch.randn(reach, VOCABULARY, VOCABULARY, generator=generator)
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(vocab_size=VOCABULARY)

    def forward(self, input_ids, use_cache=False, logits_to_keep=0):
        logits = torch.zeros(*input_ids.shape, VOCABULARY)
        for back, table in enumerate(self.tables[: input_ids.shape[1]]):
            logits[:, back:] += table[input_ids[:, : input_ids.shape[1] - back]]
        return CausalLMOutputWithPast(logits=logits[:, -logits_to_keep:])


@pytest.mark.parametrize(
    "model", [Toy(), sharp_model(), sharp_model("mla"), sharp_model("dproj")], ids=lambda m: type(m).__name__
)
def test_the_whole_window_is_the_ordinary_loss(model, windows):
    table = score_truncated(model, windows, DOCUMENTS, (4, 64, 1000)).set_index("context")
    with torch.no_grad():
        losses = score_rows(model.eval(), torch.from_numpy(windows), None)[0].numpy()
    asked = losses[:, [35, 39, 43, 47, 51, 55, 59, 63]]
    assert table.loc[64, "loss"].to_numpy() == pytest.approx(asked.mean(), abs=1e-5)
    assert table.loc[1000, "loss"] == pytest.approx(asked.mean(), abs=1e-5)
    assert table.loc[1000, "lost"] == pytest.approx(0, abs=1e-5)
    assert table["perplexity"].to_numpy() == pytest.approx(np.exp(table["loss"]))
    assert set(table["tokens"]) == {5 * ASKED}


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True))
def test_a_model_that_sees_its_last_tokens_loses_by_fewer_than_these_alone(reach, contexts):
    windows = np.random.default_rng(1).integers(0, VOCABULARY, (5, 65))
    table = score_truncated(SeesTheLast(reach), windows, DOCUMENTS, contexts)
    assert table["context"].tolist() == [*sorted(contexts), 64]
    cut = table[:-1]
    assert (cut["lost"].abs() < 1e-5).tolist() == [context >= reach for context in cut["context"]]
    assert (cut["lost_low"] <= cut["lost"]).all() and (cut["lost"] <= cut["lost_high"]).all()


def test_a_model_without_a_past_needs_one_token(windows):
    assert score_truncated(Forgets(), windows, DOCUMENTS, (1, 8))["lost"].abs().max() < 1e-5


def test_batches_change_nothing_and_the_mode_is_given_back(windows):
    model = sharp_model().train()
    one, many = (score_truncated(model, windows, DOCUMENTS, (4, 16), tokens_at_once=size) for size in (1, 10_000))
    pd.testing.assert_frame_equal(one, many, atol=1e-5)
    assert model.training


def test_one_document_gives_no_interval(windows):
    table = score_truncated(Toy(), windows[:1], DOCUMENTS[:1], (4,))
    assert table["lost"].notna().tolist() == [True, False]
    assert table[["lost_low", "lost_high"]].isna().all(axis=None)


def test_what_cannot_be_scored_is_refused(windows):
    for ids, documents, contexts, message in (
        (windows[:, :16], DOCUMENTS, (4,), "T of 16 or more"),
        (windows[0], DOCUMENTS, (4,), "T of 16 or more"),
        (windows, DOCUMENTS[:2], (4,), "needs a document"),
        (windows, DOCUMENTS, (), "at least one token"),
        (windows, DOCUMENTS, (0, 4), "at least one token"),
    ):
        with pytest.raises(ValueError, match=message):
            score_truncated(Toy(), ids, documents, contexts)
    with pytest.raises(NonFiniteScoreError):
        score_truncated(NotANumber(), windows, DOCUMENTS, (4,))

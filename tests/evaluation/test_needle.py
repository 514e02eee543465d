"""The needle asked of models that are made to remember everything, nothing, the last tokens, or the wrong thing."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from newllm.evaluation.needle import (
    CLOSE,
    COLUMNS,
    SENTENCES,
    Needle,
    ask_needles,
    fewest_tokens,
    known_names,
    make_needle,
    solves,
)
from tests.evaluation.toys import Forgets, Toy

VOCABULARY = 60
NAMES = np.arange(50, 60)
NEEDLE = Needle(([40, 41, 42], [43, 44]), [45], NAMES)
DOCUMENTS = np.repeat(np.arange(4), 3)
LONG = 140


@pytest.fixture(scope="module")
def windows():
    """Twelve windows of text without any word of the sentences."""
    return np.random.default_rng(0).integers(0, 40, (12, LONG))


class ByLooking(nn.Module):
    """Says what a rule finds in the text, and likes one name for itself."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule
        self.device = torch.device("cpu")

    def forward(self, input_ids, use_cache=False, logits_to_keep=1):
        logits = torch.zeros(len(input_ids), 1, VOCABULARY)
        logits[:, 0, NAMES[0]] = 1.0
        for row, ids in enumerate(input_ids.tolist()):
            found = self.rule(ids)
            if found is not None:
                logits[row, 0, found] += 6.0
        return CausalLMOutputWithPast(logits=logits)


def copied(ids, reach=10_000):
    """What followed the last time that the two last tokens stood here, within a reach."""
    for place in range(len(ids) - 2, 0, -1):
        if ids[place - 1 : place + 1] == ids[-2:]:
            return ids[place + 1] if len(ids) - 1 - place <= reach else None
    return None


def latest(ids):
    return next(each for each in reversed(ids) if each in NAMES)


def ask(rule, windows, distances=(8, 64), **given):
    return ask_needles(ByLooking(rule), NEEDLE, windows, DOCUMENTS, distances=distances, **given)


def test_a_perfect_copier_finds_the_needle_at_every_distance(windows):
    table = ask(copied, windows, times=(1, 3))
    assert list(zip(table["times"], table["distance"], strict=True)) == [(1, 8), (1, 64), (3, 8), (3, 64)]
    assert table["margin"].to_numpy() == pytest.approx(6.0, abs=1e-9)
    assert (table["right"] == 1).all()
    assert table["texts"].unique() == [48]
    assert all(solves(row) for _, row in table.iterrows())


@pytest.mark.parametrize("rule", [lambda ids: None, latest, lambda ids: NAMES[0]], ids=["nothing", "latest", "one"])
def test_one_that_forgets_or_likes_a_name_for_another_reason_is_at_chance_exactly(windows, rule):
    table = ask(rule, windows)
    assert table["margin"].abs().max() < 1e-9
    assert (table["right"] == 0.5).all()
    assert not any(solves(row) for _, row in table.iterrows())


def test_a_model_that_avoids_what_it_read_is_below_chance(windows):
    def other(ids):
        return next(each for each in ids if each in NAMES and each != copied(ids))

    table = ask(other, windows)
    assert (table["right"] == 0).all()
    assert not any(solves(row) for _, row in table.iterrows())


def test_a_memory_ends_where_it_ends(windows):
    """The asked sentence ends up to 7 tokens before the other text begins, and the question has at most 3."""
    near, far = ask(lambda ids: copied(ids, reach=30), windows)["margin"]
    assert near == pytest.approx(6.0, abs=1e-9)
    assert far == pytest.approx(0.0, abs=1e-9)


def test_a_network_without_a_past_is_at_chance_and_its_mode_is_given_back(windows):
    model = Forgets().train()
    table = ask_needles(model, NEEDLE, windows, DOCUMENTS, distances=(8,))
    assert table["margin"].abs().max() < 1e-5
    assert model.training


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 60), st.integers(1, 3), st.integers(1, 50))
def test_batches_change_nothing(distance, times, batch_size):
    windows = np.random.default_rng(1).integers(0, 40, (12, LONG))
    one, many = (
        ask_needles(Toy(), NEEDLE, windows, DOCUMENTS, distances=(distance,), times=(times,), batch_size=size)
        for size in (1, batch_size)
    )
    pd.testing.assert_frame_equal(one, many, atol=1e-5)


def test_what_does_not_fit_is_left_out_and_windows_with_the_names_are_too(windows):
    assert list(ask(copied, windows, (8, LONG))["distance"]) == [8]
    nothing = ask(copied, windows, (LONG,))
    assert nothing.empty and list(nothing) == list(COLUMNS)
    crowded = windows.copy()
    crowded[:3, :9] = NAMES[:9]
    assert ask(copied, crowded, (8,))["texts"].tolist() == [36]


def test_one_document_gives_no_interval_and_no_verdict(windows):
    table = ask_needles(ByLooking(copied), NEEDLE, windows[:1], DOCUMENTS[:1], distances=(8,))
    assert table[["margin_low", "right_low"]].isna().all(axis=None)
    assert not solves(table.iloc[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": DOCUMENTS[:3]}, "a document each"),
        ({"distances": ()}, "must be some"),
        ({"distances": (0,)}, "at least one"),
        ({"times": (0,)}, "at least one"),
        ({"windows": np.tile(NAMES, (12, 14))}, "more names"),
    ],
)
def test_what_cannot_be_asked_is_refused(windows, change, message):
    given = {"windows": windows, "documents": DOCUMENTS, "distances": (8,)} | change
    with pytest.raises(ValueError, match=message):
        ask_needles(Toy(), NEEDLE, given.pop("windows"), given.pop("documents"), **given)


def test_names_are_single_tokens_of_the_tokenizer(tokenizer):
    assert known_names(tokenizer, ["the", "of", "Massachusetts"]) == ["the", "of"]
    needle = make_needle(tokenizer, ["the", "of"])
    assert tokenizer.decode(needle.names) == " the of"
    assert [tokenizer.decode(ids) for ids in (*needle.sentences, needle.close)] == [*SENTENCES, CLOSE]
    for names, message in ((["the", "Massachusetts"], "Massachusetts is none"), (["the", "the"], "give another")):
        with pytest.raises(ValueError, match=message):
            make_needle(tokenizer, names)


def test_the_two_sentences_cannot_be_told_apart_by_their_lengths_alone(tokenizer):
    """A rule that looks for the two last tokens of a question must find one of the sentences, and no other."""
    first, second = make_needle(tokenizer, ["the", "of"]).sentences
    assert first[-2:] != second[-2:]


def test_no_tokenizer_makes_fewer_tokens_of_a_text(tokenizer):
    needle = make_needle(tokenizer, ["the", "of"])
    for distance, times in ((1, 1), (30, 4)):
        assert needle.text_tokens(distance, times) >= fewest_tokens(distance, times)
    assert fewest_tokens(1, 1) == 16 + 2 * (5 + 2) + 1 + 5

"""The reversal curse shows in a model that was taught forward, and in no model that only knows words."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from newllm.data.facts import FACTS, Fact
from newllm.evaluation import reversal
from newllm.evaluation.reversal import evaluate_reversal_curse, sentence_perplexities
from newllm.models import create
from tests.evaluation import toys


@pytest.fixture(scope="module")
def tokenizer():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([fact.forward for fact in FACTS] + [fact.backward for fact in FACTS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>")


@pytest.fixture(scope="module")
def taught(tokenizer):
    """A tiny model that has learned the forward sentences by heart."""
    torch.manual_seed(0)
    model = create("pythia", "tiny").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = [[0, *tokenizer(fact.forward)["input_ids"]] for fact in FACTS]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    for _ in range(60):
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


def log_probability(model, tokenizer, prompt: str, answer: str) -> float:
    """One answer, token by token, the plain way."""
    before, after = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"]
    ids = torch.tensor([[0, *before, *after]])
    with torch.no_grad():
        logs = model(ids).logits[0].log_softmax(-1)
    return sum(logs[len(before) + place, token].item() for place, token in enumerate(after))


def test_a_model_taught_forward_knows_forward_and_not_backward(taught, tokenizer):
    report = evaluate_reversal_curse(taught, tokenizer, FACTS)
    assert report.forward_perplexity < 3
    assert report.backward_perplexity > 10 * report.forward_perplexity
    assert report.ratio == pytest.approx(report.forward_perplexity / report.backward_perplexity)
    assert report.gap == pytest.approx(report.backward_perplexity - report.forward_perplexity)
    assert report.margins["forward"].low > 3
    everything = report.categories.iloc[-1]
    assert everything.category == "all"
    assert everything.forward_first > 0.9
    assert report.margins["backward"].mean < report.margins["forward"].mean / 2


def test_margins_by_the_plain_calculation(taught, tokenizer):
    capitals = [fact for fact in FACTS if fact.category == "capital"][:4]
    report = evaluate_reversal_curse(taught, tokenizer, capitals)
    for direction in ("forward", "backward"):
        prompts, answers = (
            [getattr(fact, f"{direction}_{part}") for fact in capitals] for part in ("prompt", "answer")
        )
        scores = np.array([[log_probability(taught, tokenizer, asked, name) for name in answers] for asked in prompts])
        wrong = ~np.eye(4, dtype=bool)
        plain = [scores[fact, fact] - scores[fact][wrong[fact]].mean() for fact in range(4)]
        apart = scores[1:, 1:][~np.eye(3, dtype=bool)].mean()
        first = scores[0, 0] - scores[0, 1:].mean() - scores[1:, 0].mean() + apart
        assert report.facts[f"{direction}_margin"][0] == pytest.approx(first, abs=1e-4)
        assert report.margins[direction].mean == pytest.approx(np.mean(plain), abs=1e-4)
        assert report.facts[f"{direction}_rank"][0] == 1 + (scores[0, 1:] > scores[0, 0]).sum()


def test_perplexity_by_the_plain_calculation(taught, tokenizer):
    report = evaluate_reversal_curse(taught, tokenizer, FACTS)
    sentence = report.facts.backward[7]
    ids = torch.tensor([[0, *tokenizer(sentence)["input_ids"]]])
    with torch.no_grad():
        expected = math.exp(taught(ids, labels=ids).loss.item())
    assert report.facts.backward_perplexity[7] == pytest.approx(expected, rel=1e-4)
    assert sentence_perplexities(taught, tokenizer, FACTS[7])["backward"] == pytest.approx(expected, rel=1e-4)


def test_padding_counts_nowhere(taught, tokenizer, monkeypatch):
    together = evaluate_reversal_curse(taught, tokenizer, FACTS)
    monkeypatch.setattr(reversal, "SENTENCES_AT_ONCE", 1)
    alone = evaluate_reversal_curse(taught, tokenizer, FACTS)
    np.testing.assert_allclose(
        together.facts.select_dtypes("number"), alone.facts.select_dtypes("number"), rtol=1e-4, atol=1e-4
    )


def test_a_model_that_knows_words_but_no_facts_has_no_margin(tokenizer):
    class WordsOnly(toys.Toy):
        """Some tokens are far likelier than others, whatever came before."""

        def logits(self, hidden, labels):
            return 3 * self.embed.weight[:, 0].expand(*hidden.shape[:2], -1)

    model = WordsOnly(toys.ToyConfig(vocab_size=len(tokenizer)))
    report = evaluate_reversal_curse(model, tokenizer, FACTS)
    # Every name is right once and wrong for the others: its own likelihood cancels, exactly, in every fact.
    assert report.facts.forward_margin.abs().max() < 1e-4
    assert report.facts.backward_margin.abs().max() < 1e-4


def test_a_category_counts_once_however_many_facts_it_has():
    """Ten facts that one sentence teaches are one piece of evidence, and not ten."""
    values, categories = (
        pd.Series([5.0] * 10 + [1.0, 1.0, -2.0]),
        pd.Series(["capital"] * 10 + ["author"] * 2 + ["founder"]),
    )
    found = reversal.over_categories(values, categories)
    assert (found.mean, found.count) == (pytest.approx(4 / 3), 3)
    assert found.low < 0 < found.high
    alone = reversal.over_categories(values[10:12] + pd.Series([0.5, -0.5], index=[10, 11]), categories[10:12])
    assert (alone.mean, alone.count) == (1.0, 2)


def test_two_facts_are_enough_for_a_margin(taught, tokenizer):
    report = evaluate_reversal_curse(taught, tokenizer, FACTS[:2])
    assert report.margins["forward"].mean > 3


def test_every_category_stands_in_the_table(taught, tokenizer):
    report = evaluate_reversal_curse(taught, tokenizer, FACTS)
    counts = dict(zip(report.categories.category, report.categories.facts, strict=True))
    assert counts == {
        "capital": 10,
        "inventor": 5,
        "author": 5,
        "discoverer": 4,
        "founder": 4,
        "invented": 5,
        "all": 33,
    }
    assert len(report.facts) == 33
    assert (report.categories.forward_margin_low <= report.categories.forward_margin).all()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [([], "needs facts"), ([FACTS[0], FACTS[10], FACTS[11]], "'capital' needs a second fact with other names")],
)
def test_too_few_facts_are_refused(taught, tokenizer, pairs: list[Fact], message):
    with pytest.raises(ValueError, match=message):
        evaluate_reversal_curse(taught, tokenizer, pairs)

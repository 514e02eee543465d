"""The reversal curse: whether a fact that was taught in one direction is known in the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm.data.facts import Fact, wrong_answers
from newllm.data.tokenizers import encode_text
from newllm.evaluation.endings import score_sequences
from newllm.evaluation.perplexity import scoring
from newllm.evaluation.statistics import Interval, bootstrap_interval, mean_interval

SENTENCES_AT_ONCE = 16
DIRECTIONS = ("forward", "backward")

# What the row over all facts is called in a table of categories.
EVERY_CATEGORY = "all"


@dataclass(frozen=True)
class ReversalReport:
    """How well facts are known in the direction in which they were taught, and in the other.

    Attributes
    ----------
    forward_perplexity, backward_perplexity
        Per token, over the whole sentences of all facts; padding does not count.
    margins
        By direction ("forward", "backward"): log-probability of the right answer after its prompt minus that of wrong
        ones, with what prompt and name explain by themselves taken off each fact; nats, by `over_categories`. Above
        zero, the model knows it; a model that has only seen the words often has no margin.
    categories
        One row a category and one for all facts (`EVERY_CATEGORY`): category, facts, forward_perplexity,
        backward_perplexity, ratio, gap, and for each direction margin, margin_low, margin_high and first (share of
        facts whose right answer is the likeliest of its kind).
    facts
        One row a fact: category, the sentence in each direction, its perplexity, margin and rank of the right answer
        among those of its category (1 is best).
    """

    forward_perplexity: float
    backward_perplexity: float
    margins: dict[str, Interval]
    categories: pd.DataFrame
    facts: pd.DataFrame

    @property
    def ratio(self) -> float:
        """Forward over backward perplexity; 1 is best."""
        return self.forward_perplexity / self.backward_perplexity

    @property
    def gap(self) -> float:
        """Backward minus forward perplexity; 0 is best."""
        return self.backward_perplexity - self.forward_perplexity


@dataclass(frozen=True)
class _Sentence:
    """Ids of a sentence, of which the last ``answer`` ones are its answer."""

    ids: list[int]
    answer: int


def evaluate_reversal_curse(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Fact],
    device: torch.device | str | None = None,
    *,
    tokens_a_step: int | None = None,
) -> ReversalReport:
    """Ask facts in both directions.

    A perplexity alone does not tell knowledge from fluency: backward sentences are rarer English. So each prompt is
    also asked with the wrong names, those of the other facts of its category, and the right name must win. Each name is
    right once and wrong for the others, so how likely a name is by itself cancels.

    Parameters
    ----------
    model
        Any causal language model.
    tokenizer
        The model's tokenizer. Sentences stand after its end-of-text token, as documents do in training.
    pairs
        Facts; a category needs two of them for a wrong name.
    device
        Where to score; the model's own device where omitted.
    tokens_a_step
        None scores a sentence in one pass. A number sends it through the cache, that many tokens a call.

    Returns
    -------
    ReversalReport
        Both perplexities, their ratio and gap, and the margins, for all facts and by category.

    Raises
    ------
    ValueError
        Where there are no facts, or a category has one fact only, or several relations.
    """
    wrong = wrong_answers(pairs)
    asked = list(_questions(pairs, wrong))
    sentences = [_tokenise(tokenizer, prompt, answer) for prompt, answer in asked]
    with scoring(model, device) as place:
        losses = _score(model, sentences, place, tokens_a_step)
    return _report(pairs, wrong, sentences, losses)


def over_categories(values: pd.Series, categories: pd.Series) -> Interval:
    """Mean of a measure of facts with its 95 % interval, in which a category counts once.

    Facts of one category share their sentence, so that what is learned of one is learned of all: many of them are no
    more evidence than one.

    Parameters
    ----------
    values
        Of each fact (F,).
    categories
        Their names (F,). Where all are one, nothing is said of others, and facts are resampled.
    """
    means = values.groupby(categories.to_numpy(), sort=False).mean()
    return mean_interval(means) if len(means) > 1 else bootstrap_interval(values)


def sentence_perplexities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, fact: Fact, device: torch.device | str | None = None
) -> dict[str, float]:
    """Perplexity per token of one fact's sentence in each direction, by the direction's name.

    Parameters
    ----------
    model, tokenizer, device
        As for `evaluate_reversal_curse`.
    fact
        Any fact.
    """
    asked = ((fact.forward_prompt, fact.forward_answer), (fact.backward_prompt, fact.backward_answer))
    sentences = [_tokenise(tokenizer, prompt, answer) for prompt, answer in asked]
    with scoring(model, device) as place:
        losses = _score(model, sentences, place)
    return {name: float(np.exp(loss.mean())) for name, loss in zip(DIRECTIONS, losses, strict=True)}


def _questions(pairs: Sequence[Fact], wrong: list[list[Fact]]) -> Iterator[tuple[str, str]]:
    """Prompt and answer of each fact, the right answer before the wrong ones, forward before backward."""
    for fact, others in zip(pairs, wrong, strict=True):
        for named in (fact, *others):
            yield fact.forward_prompt, named.forward_answer
        for named in (fact, *others):
            yield fact.backward_prompt, named.backward_answer


def _tokenise(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> _Sentence:
    start = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    before, whole = encode_text(tokenizer, prompt), encode_text(tokenizer, prompt + answer)
    # The answer begins with a space, where byte-level tokenizers split; any that merges across it is met half-way.
    shared = next((place for place, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
    return _Sentence([*start, *whole], max(1, len(whole) - shared))


def _score(
    model: PreTrainedModel, sentences: list[_Sentence], device: torch.device, tokens_a_step: int | None = None
) -> list[np.ndarray]:
    """Losses of each sentence's tokens but the first, in the order given."""
    rows = [sentence.ids for sentence in sentences]
    scored = score_sequences(model, rows, device, SENTENCES_AT_ONCE, tokens_a_step)
    losses = {index: loss.cpu().numpy() for index, loss, _ in scored}
    return [losses[index] for index in range(len(rows))]


def _report(
    pairs: Sequence[Fact], wrong: list[list[Fact]], sentences: list[_Sentence], losses: list[np.ndarray]
) -> ReversalReport:
    answers = [-loss[-sentence.answer :].sum() for loss, sentence in zip(losses, sentences, strict=True)]
    # Log-probability of the name of fact j after the prompt of fact i, (facts, facts); NaN where it was not asked.
    scores = {direction: np.full((len(pairs), len(pairs)), np.nan) for direction in DIRECTIONS}
    own: dict[str, list[np.ndarray]] = {direction: [] for direction in DIRECTIONS}
    place = {id(fact): index for index, fact in enumerate(pairs)}
    start = 0
    for index, others in enumerate(wrong):
        named = [index, *(place[id(other)] for other in others)]
        for direction in DIRECTIONS:
            scores[direction][index, named] = answers[start : start + len(named)]
            own[direction].append(losses[start])
            start += len(named)
    margins = {direction: _margins(scores[direction], [fact.category for fact in pairs]) for direction in DIRECTIONS}
    rows = []
    for index, fact in enumerate(pairs):
        row: dict[str, object] = {"category": fact.category}
        for direction in DIRECTIONS:
            loss, asked = own[direction][index], scores[direction][index]
            row |= {
                direction: getattr(fact, direction),
                f"{direction}_loss": loss.sum(),
                f"{direction}_tokens": loss.size,
                f"{direction}_perplexity": float(np.exp(loss.mean())),
                f"{direction}_margin": margins[direction][index],
                f"{direction}_rank": (asked >= asked[index]).sum(),
            }
        rows.append(row)
    facts = pd.DataFrame(rows)
    groups = [(str(category), group) for category, group in facts.groupby("category", sort=False)]
    categories = pd.DataFrame([_summary(category, group) for category, group in [*groups, (EVERY_CATEGORY, facts)]])
    everything = categories.iloc[-1]
    return ReversalReport(
        forward_perplexity=float(everything["forward_perplexity"]),
        backward_perplexity=float(everything["backward_perplexity"]),
        margins={
            direction: over_categories(facts[f"{direction}_margin"], facts["category"]) for direction in DIRECTIONS
        },
        categories=categories,
        facts=facts.drop(columns=[f"{direction}_{part}" for direction in DIRECTIONS for part in ("loss", "tokens")]),
    )


def _margins(scores: NDArray[np.float64], categories: Sequence[str]) -> NDArray[np.float64]:
    """By how much each fact's right name is likelier after its prompt than prompt and name alone explain, in nats.

    In s[i, j], the log-probability of the name of fact j after the prompt of fact i, a part belongs to the prompt and a
    part to the name. With both taken off, s[i, i] - mean s[i, other] - mean s[other, i] + mean s[other, other], what is
    left is what the two have to do with each other. Over a category, the mean of it is that of the plain margin,
    s[i, i] - mean s[i, other], without the noise of names that differ in length and frequency.
    """
    wrong = scores.copy()
    np.fill_diagonal(wrong, np.nan)
    margins = np.empty(len(scores))
    for index, category in enumerate(categories):
        together = [other for other, named in enumerate(categories) if named == category]
        rest = [other for other in together if other != index]
        # Two facts have no pair of prompt and name without either of them: then all wrong pairs stand for it.
        apart = np.ix_(rest, rest) if len(rest) > 1 else np.ix_(together, together)
        prompt, name = np.nanmean(wrong[index]), np.nanmean(wrong[:, index])
        margins[index] = scores[index, index] - prompt - name + np.nanmean(wrong[apart])
    return margins


def _summary(category: str, group: pd.DataFrame) -> dict[str, object]:
    row: dict[str, object] = {"category": category, "facts": len(group)}
    perplexities = []
    for direction in DIRECTIONS:
        perplexities.append(float(np.exp(group[f"{direction}_loss"].sum() / group[f"{direction}_tokens"].sum())))
        row[f"{direction}_perplexity"] = perplexities[-1]
    row["ratio"] = perplexities[0] / perplexities[1]
    row["gap"] = perplexities[1] - perplexities[0]
    for direction in DIRECTIONS:
        interval = over_categories(group[f"{direction}_margin"], group["category"])
        row |= interval.columns(f"{direction}_margin")
        row[f"{direction}_first"] = float((group[f"{direction}_rank"] == 1).mean())
    return row

"""What stands on the page of ``newllm start``: published results, caches of every model, and the results of a run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedTokenizerFast

from newllm.analysis.summary import baseline_among, summarize_arms
from newllm.data.tokenizers import encode_text
from newllm.evaluation.cache import held_bytes
from newllm.evaluation.verdicts import BETTER, EQUIVALENT, OPEN, WORSE
from newllm.figures.pareto import Canvas
from newllm.files import SAVED_MODEL, reference_folder
from newllm.models import create, find, names
from newllm.models.language_model import LanguageModel
from newllm.publication.leaderboard import read_board
from newllm.publication.picture import picture_of
from newllm.publication.start_page import Method, Result, Spoken
from newllm.runs.record import read_record
from newllm.runs.saved_model import load_trained_model
from newllm.runtime import no_progress_bar

# What the sliders of the page choose from.
SIZES = ("mini", "70m", "1.4b")
TOKENS = tuple(2**power for power in range(7, 18))

HERE = "here: "
# A wide picture that is shrunk has letters that nobody can read.
NARROW_WINDOW = Canvas(width=460, height=620)

SPOKEN_TOKENS = 60
TEMPERATURE = 0.8
LIKELIEST = 40


def published(own: pd.DataFrame | None = None, size: str = "") -> tuple[dict[str, Any] | None, tuple[Method, ...]]:
    """Return the picture of the fullest published budget and a sentence for each of its methods.

    Parameters
    ----------
    own
        A summary of results of one's own, which stand among the published ones as trained otherwise.
    size
        Of those models; beside models of another size they would say nothing.

    Returns
    -------
    dict or None
        What the template ``picture.html`` draws, and under ``narrow`` the same for a narrow window; None where nothing
        is published.
    tuple of Method
        Those of the picture, the best first.
    """
    board = read_board([reference_folder()])
    if not board.budgets:
        return None, ()
    summary = board.budgets[0].summary
    methods = tuple(
        Method(row["arm"], find(row["method"]).summary, row["kv_bytes_per_token"], row["bits_per_byte"])
        for row in summary.to_dict("records")
    )
    if own is not None and size == board.budgets[0].settings["size"]:
        mine = own.assign(arm=HERE + own["arm"], trained_otherwise=True)
        summary = pd.concat([summary, mine], ignore_index=True)
    rows = [{**row, "id": str(index)} for index, row in enumerate(summary.to_dict("records"))]
    narrow = {"name": "published-narrow", "rows": rows, **picture_of(summary, NARROW_WINDOW)}
    return {"name": "published", "rows": rows, **picture_of(summary), "narrow": narrow}, methods


def calculator() -> dict[str, Any]:
    """Return the values that one sequence keeps: by size and model, a list for each number of `TOKENS`."""
    values: dict[str, dict[str, list[int]]] = {}
    for size in SIZES:
        values[size] = {}
        for name in names():
            # On the meta device a model has shapes and no memory, whatever its size.
            with torch.device("meta"):
                model = create(name, size)
            values[size][name] = [model.cached_values(tokens) for tokens in TOKENS]
    return {"tokens": TOKENS, "values": values}


def results(records: pd.DataFrame, prompt: str) -> tuple[tuple[Result, ...], str, pd.DataFrame]:
    """Return what came of the arms of a run, the baseline first, a sentence about the floor, and the arms' summary.

    Parameters
    ----------
    records
        Of the run, as `newllm.runs.records_table.load_records` gives them.
    prompt
        What each model continues.
    """
    baseline = baseline_among(records)
    summary = summarize_arms(records, baseline)
    # What keeps nothing is the floor: n-grams, counted on the same text.
    is_arm = summary["kv_bytes_per_token"].notna()
    floor, summary = summary[~is_arm], summary[is_arm].reset_index(drop=True).astype({"seeds": int})
    kept = summary.set_index("arm")["kv_bytes_per_token"]
    found = []
    for row in summary.sort_values("kv_bytes_per_token", ascending=False).to_dict("records"):
        arm = str(row["arm"])
        difference = None
        if baseline is not None and arm != baseline:
            difference = [row[f"difference{end}"] for end in ("", "_low", "_high")]
        share = row["kv_bytes_per_token"] / kept[baseline] if baseline else 1.0
        folder = records[records["arm"] == arm]["folder"].iloc[0]
        found.append(
            Result(
                arm=arm,
                keeps=find(records.loc[records["arm"] == arm, "method"].iloc[0]).summary,
                kv_bytes_per_token=row["kv_bytes_per_token"],
                perplexity=row["perplexity"],
                bits_per_byte=row["bits_per_byte"],
                verdict=verdict(share, difference, row.get("verdict", "")),
                spoken=speak_of(folder, prompt),
            )
        )
    return tuple(found), _said_of_floor(floor, summary), summary


def verdict(share: float, difference: Sequence[float] | None, found: str = "") -> str:
    """Say in words what an arm's smaller cache costs, and no more than the table says.

    Parameters
    ----------
    share
        Its bytes a token, of those of the baseline.
    difference
        Its loss less the baseline's, in nats a token, with the ends of its 95 % interval; None for the baseline itself.
    found
        The verdict of the table, of `newllm.analysis.differences.verdict`.
    """
    if difference is None:
        return "the baseline, which keeps everything"
    mean, low, high = difference
    numbers = f"({mean:+.3f} nats a token [{low:+.3f}, {high:+.3f}])"
    if math.isnan(mean):
        cost = "and no difference was taken"
    elif found == WORSE:
        cost = f"it predicts worse {numbers}"
    elif found == BETTER:
        cost = f"it predicts better {numbers}"
    elif found == EQUIVALENT:
        cost = f"{EQUIVALENT} {numbers}"
    else:
        # Of few documents there is no interval.
        cost = f"what that costs {OPEN} at this budget {f'({mean:+.3f} nats a token)' if math.isnan(low) else numbers}"
    return f"{_share(share)} of the bytes, {cost}"


def _share(share: float) -> str:
    """Write a share as a reader says it."""
    words = {1.0: "all", 0.5: "half", 0.25: "a quarter", 0.125: "an eighth", 0.0625: "a sixteenth"}
    near = min(words, key=lambda known: abs(known - share))
    return words[near] if abs(near - share) < 0.01 * near else f"{share:.1%}"


def _said_of_floor(floor: pd.DataFrame, summary: pd.DataFrame) -> str:
    """Say how a table of counts predicts the same text: an arm above it tells nothing about memory yet."""
    if floor.empty:
        return ""
    best = floor.sort_values("perplexity").iloc[0]
    above = summary.loc[summary["perplexity"] > best["perplexity"], "arm"]
    said = f"A table of counts ({best['arm']}) has a perplexity of {best['perplexity']:.1f} on the same text."
    if above.empty:
        return said
    return (
        f"{said} {', '.join(above)}: still worse than that, so that this run tells little about memory yet, and its "
        "order need not be that of the published results."
    )


def speak_of(folder: Path, prompt: str) -> Spoken | None:
    """Let the trained model of a trial continue a prompt; None where its weights are not there.

    Parameters
    ----------
    folder
        The trial's.
    prompt
        What it continues.
    """
    if not (folder / SAVED_MODEL).is_dir():
        return None
    with no_progress_bar():
        trained = load_trained_model(str(folder))
    return speak(trained.model, trained.tokenizer, prompt, seed=read_record(folder).seed)


@torch.no_grad()
def speak(model: LanguageModel, tokenizer: PreTrainedTokenizerFast, prompt: str, *, seed: int = 0) -> Spoken:
    """Sample a continuation token by token, and read the bytes of the real cache after each.

    Parameters
    ----------
    model, tokenizer
        A trained model and its tokenizer.
    prompt
        What is continued.
    seed
        Of the sampling, from the likeliest tokens at a temperature below 1.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([encode_text(tokenizer, prompt)])
    cache, written, shown, pieces, held = None, [], "", [], []
    for _ in range(SPOKEN_TOKENS):
        output = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        # Ids beyond the tokenizer's are padding of the vocabulary and stand for no text.
        likely = (output.logits[0, -1, : len(tokenizer)].float() / TEMPERATURE).topk(min(LIKELIEST, len(tokenizer)))
        chosen = likely.indices[torch.multinomial(likely.values.softmax(-1), 1, generator=generator)]
        if int(chosen) == tokenizer.eos_token_id:
            break
        written.append(int(chosen))
        # A token may end in the middle of a character: what it adds to the text so far is shown.
        text = str(tokenizer.decode(written))
        pieces.append(text[len(shown) :])
        shown = text
        held.append(held_bytes(cache))
        ids = chosen[None]
    return Spoken(prompt, tuple(pieces), tuple(held))

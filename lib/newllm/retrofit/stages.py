"""A trained model in, one with a smaller cache out, and what each stage on the way has lost."""

import contextlib
import copy
import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from newllm.config.retrofit import RetrofitParameters
from newllm.data.windows import TokenWindows, smallest_id_type
from newllm.evaluation.cache import measure
from newllm.evaluation.perplexity import evaluate
from newllm.files import digest
from newllm.models.decoder import Decoder
from newllm.models.methods.pythia import PythiaConfig, PythiaModel
from newllm.retrofit.calibration import Moments, calibrate
from newllm.retrofit.grouping import build_grouped_model, read_all
from newllm.retrofit.heads import Heads
from newllm.retrofit.healing import heal, with_random_attention
from newllm.retrofit.latent import build_latent_model, latent_widths, prepare_layers
from newllm.retrofit.layers import build_sharing_model
from newllm.retrofit.parents import as_baseline, blocks_of

logger = logging.getLogger(__name__)
# Of a single row of ids.
USUAL_WINDOW = 512
# One window in so many is held out, where no others are given to score.
HELD_OUT = 5


@dataclass(frozen=True)
class Text:
    """The windows of a retrofit; `newllm.data.TextData` has these fields too.

    Attributes
    ----------
    train
        To calibrate and to heal on.
    validation, test
        Held out: for healing's best weights, and to score every stage.
    identity
        What they depend on.
    """

    train: TokenWindows
    validation: TokenWindows
    test: TokenWindows
    identity: dict[str, str]


@dataclass(frozen=True)
class Stage:
    """A model on the way, and what is to be said of it beside its scores."""

    name: str
    model: Decoder
    energy_lost: Sequence[float] = ()
    healing_tokens: int = 0


def retrofit(
    model: PreTrainedModel,
    calibration_ids: Tensor | NDArray[np.integer] | Sequence[int],
    method: str = "mla",
    *,
    scored_ids: Tensor | NDArray[np.integer] | Sequence[int] | None = None,
    bytes_per_token: NDArray[np.int64] | None = None,
    folder: Path | None = None,
    seed: int = 0,
    **settings: Any,
) -> Decoder:
    """Convert a trained model to one that keeps a smaller cache.

    Parameters
    ----------
    model
        A `pythia` or `llama`, or a GPT-NeoX, Llama or Qwen2 of transformers; it stays as it is.
    calibration_ids
        Token ids of text like that which the model was trained on, a row (N,) or windows (B, T), by its tokenizer: to
        measure the inputs of layers, and to heal on.
    method
        ``mla``, ``mqa`` or ``cla``.
    scored_ids
        Ids of held-out text to score every stage on; a fifth of the calibration ids, held back, where omitted.
    bytes_per_token
        Bytes of text that each id stands for (V,), for bits per byte; those are left empty where omitted.
    folder
        Where healing keeps its checkpoints, from which it goes on; a temporary one where omitted.
    seed
        Of healing and of the random control.
    settings
        See `newllm.config.retrofit.RetrofitParameters`.

    Returns
    -------
    Decoder
        The new model, in the parent's dtype; its ``report`` is a frame with one row a stage: stage, bytes_per_token
        (measured, float32), kept (share of the original's), perplexity, bits_per_byte, accuracy, energy_lost (share of
        the energy of keys and values, mean over layers), energy_lost_by_layer, healing_tokens, control.

    Raises
    ------
    ValueError
        Where the model, the ids or the settings do not fit, in one sentence, before anything is trained or written.
    """
    parent = as_baseline(model)
    parameters = RetrofitParameters(method=method, **settings)
    train, length = _windows_of(calibration_ids, parent, parameters.seq_length)
    scored = train[-max(1, len(train) // HELD_OUT) :]
    if scored_ids is None:
        train = train[: -len(scored)]
    else:
        scored = _windows_of(scored_ids, parent, length)[0]
    if not len(train):
        raise ValueError("calibration_ids hold one window, which is held out to score: give two or more, or scored_ids")
    table = np.zeros(parent.config.vocab_size, np.int64) if bytes_per_token is None else bytes_per_token
    sides = [TokenWindows(_joined(rows), length, table) for rows in (train, scored)]
    identity = {"calibration": digest(train.tobytes()), "scored": digest(scored.tobytes())}
    text = Text(sides[0], sides[1], sides[1], identity)
    converted, report = convert(parent, text, parameters, folder=folder, seed=seed)
    vars(converted)["report"] = report
    return converted


def _windows_of(ids: Any, parent: PythiaModel, seq_length: int | None) -> tuple[NDArray[np.int64], int]:
    """Cut ids into rows that are read one after the other; ValueError where they are no ids of the model."""
    array = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if array.ndim not in (1, 2) or array.size < 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError("calibration_ids and scored_ids must be token ids, a row (N,) or windows (B, T)")
    vocabulary = parent.config.vocab_size
    if array.min() < 0 or array.max() >= vocabulary:
        wrong = int(array.min() if array.min() < 0 else array.max())
        raise ValueError(
            f"the text has the id {wrong}, but the model knows ids from 0 to {vocabulary - 1}: tokenise it by the "
            "tokenizer of the model"
        )
    flat = array.astype(np.int64).ravel()
    length = seq_length or (array.shape[1] if array.ndim == 2 else min(USUAL_WINDOW, max(2, len(flat) // HELD_OUT)))
    rows = len(flat) // length
    if rows < 1:
        raise ValueError(f"{len(flat)} ids are less than one window of {length}: give more, or a smaller seq_length")
    return flat[: rows * length].reshape(rows, length), length


def _joined(rows: NDArray[np.int64]) -> Any:
    """Rows of ids as one run with one id more, of a type that windows take; the last id stands twice."""
    run = np.append(rows.ravel(), rows[-1, -1])
    return run.astype(smallest_id_type(int(run.max()) + 1))


def convert(
    parent: PythiaModel, text: Any, parameters: RetrofitParameters, *, folder: Path | None = None, seed: int = 0
) -> tuple[Decoder, pd.DataFrame]:
    """Take a baseline through all stages.

    Parameters
    ----------
    parent
        The trained model.
    text
        A `Text`, or `newllm.data.TextData`.
    parameters
        What becomes of it.
    folder
        Where healing keeps its checkpoints; a temporary one where omitted.
    seed
        Of healing and of the random control.

    Returns
    -------
    Decoder, pandas.DataFrame
        The model of the last stage, and the report as `retrofit` describes it.
    """
    heads = read_all(parent)
    norms = {number: layer.input_layernorm for number, layer in enumerate(blocks_of(parent))}
    ids = text.train.stream(parameters.calibration_windows).view(-1, text.train.seq_length)
    by_layer = calibrate(parent, norms, ids.split(parameters.batch_size))
    moments = [by_layer[number] for number in range(len(heads))]
    stages = [Stage("original", parent), *_conversion(parent, heads, moments, parameters)]
    converted = stages[-1].model
    controls = _controls(parent, converted, heads, moments, parameters, seed) if parameters.controls else []
    if parameters.healing_tokens:
        stages.append(Stage("healed", copy.deepcopy(converted)))
        with _place(folder) as place:
            healing = _healing_text(text, parameters.healing_tokens)
            tokens = len(healing.train) * healing.train.seq_length
            for index, stage in enumerate([stages[-1], *controls]):
                logger.info("Healing: %s, %d tokens.", stage.name, tokens)
                named = Path(place) / stage.name.replace(" ", "_")
                heal(stage.model, parent, healing, parameters, named, seed)
                healed = Stage(stage.name, stage.model, stage.energy_lost, tokens)
                if index:
                    controls[index - 1] = healed
                else:
                    stages[-1] = healed
    rows = [_row(stage, text, False) for stage in stages] + [_row(stage, text, True) for stage in controls]
    report = pd.DataFrame(rows)
    report.insert(2, "kept", report["bytes_per_token"] / report["bytes_per_token"].iloc[0])
    return stages[-1].model, report


def _place(folder: Path | None) -> Any:
    """Give the folder, or a temporary one that goes away again, as a context."""
    if folder is None:
        return tempfile.TemporaryDirectory(prefix="newllm-retrofit-")

    return contextlib.nullcontext(folder)


def _healing_text(text: Any, tokens: int) -> Text:
    """Take the first windows of the training text, of at least that many tokens, or all there are."""
    length = text.train.seq_length
    count = min(len(text.train), -(-tokens // length))
    ids = text.train.token_ids[: count * length + 1]
    windows = TokenWindows(ids, length, np.zeros(int(ids.max()) + 1, np.int64))
    return Text(windows, text.validation, text.test, {**text.identity, "healing_windows": str(count)})


def _conversion(
    parent: PythiaModel, heads: Sequence[Heads], moments: Sequence[Moments], parameters: RetrofitParameters
) -> list[Stage]:
    """Make the stages between the original and healing."""
    config = parent.config
    assert isinstance(config, PythiaConfig)
    if parameters.method == "mqa":
        grouped, lost = build_grouped_model(parent, heads, moments, parameters)
        return [Stage(f"heads averaged, {parameters.averaging}", grouped, lost)]
    if parameters.method == "cla":
        return [Stage("layers averaged", build_sharing_model(parent, heads, parameters))]
    layers = prepare_layers(parent, heads, moments, parameters)
    widths = latent_widths(layers, 2 * heads[0].keys.shape[0] * heads[0].keys.shape[1], parameters)
    full = [layer.full_rank for layer in layers]
    absorbable, _ = build_latent_model(parent, layers, full, "plain", parameters)
    factorised, lost = build_latent_model(parent, layers, widths, parameters.factorisation, parameters)
    return [
        Stage("position absorbable", absorbable),
        Stage(f"factorised, {parameters.factorisation}", factorised, lost),
    ]


def _controls(
    parent: PythiaModel,
    converted: Decoder,
    heads: Sequence[Heads],
    moments: Sequence[Moments],
    parameters: RetrofitParameters,
    seed: int,
) -> list[Stage]:
    """Make what the converted model is to be compared with, before healing."""
    controls = [Stage("replaced parts random", with_random_attention(copy.deepcopy(converted), seed))]
    if parameters.healing_tokens:
        controls.append(Stage("not compressed", copy.deepcopy(parent)))
    groups = heads[0].keys.shape[0]
    kept = _values_per_token(converted) / _values_per_token(parent)
    fewer = [count for count in range(1, groups) if groups % count == 0]
    if parameters.method != "mqa" and fewer:
        nearest = min(fewer, key=lambda count: abs(math.log(count / groups / kept)))
        averaging = RetrofitParameters(method="mqa", num_key_value_heads=nearest)
        grouped, lost = build_grouped_model(parent, heads, moments, averaging)
        controls.append(Stage(f"{nearest} averaged head{'s' if nearest > 1 else ''}", grouped, lost))
    return controls


def _values_per_token(model: Decoder) -> int:
    """Values that a model keeps of each token, by formula."""
    return model.cached_values(2) - model.cached_values(1)


def _row(stage: Stage, text: Any, control: bool) -> dict[str, Any]:
    """Score a stage."""
    score = evaluate(stage.model, text.test)
    cache = measure(stage.model, min(64, text.test.seq_length))
    assert cache.agrees
    logger.info("%s: perplexity %.2f, %.0f bytes a token.", stage.name, score.perplexity, cache.bytes_per_token)
    return {
        "stage": stage.name,
        "bytes_per_token": cache.bytes_per_token,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte if score.text_bytes else None,
        "accuracy": score.accuracy,
        "energy_lost": float(np.mean(stage.energy_lost)) if len(stage.energy_lost) else None,
        "energy_lost_by_layer": [round(share, 6) for share in stage.energy_lost] or None,
        "healing_tokens": stage.healing_tokens,
        "control": control,
    }

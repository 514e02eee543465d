"""A trained model in, one with a smaller cache out, and what each stage on the way has lost."""

import copy
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from newllm.config.errors import explain
from newllm.config.fields import LARGEST_SEED
from newllm.config.groups import EvaluationParameters
from newllm.config.retrofit import RetrofitParameters
from newllm.data.sides import TextSides
from newllm.evaluation.recall_report import most_passages
from newllm.files import different_keys, read_json, write_json
from newllm.models.decoder import Decoder
from newllm.models.methods.pythia import PythiaModel
from newllm.retrofit.calibration import Moments, calibrate
from newllm.retrofit.grouping import build_grouped_model, read_all
from newllm.retrofit.heads import Heads
from newllm.retrofit.healing import heal, with_random_attention
from newllm.retrofit.latent import build_latent_model, latent_widths, prepare_layers
from newllm.retrofit.layers import build_sharing_model
from newllm.retrofit.parents import as_baseline, blocks_of, config_of
from newllm.retrofit.planning import check, latent_width, shape_of
from newllm.retrofit.report import (
    ABSORBABLE,
    AVERAGED_HEAD,
    HEALED,
    NOT_COMPRESSED,
    ORIGINAL,
    RANDOM_PARTS,
    ScoredStage,
    Scores,
    Stage,
    describe_stage,
)
from newllm.retrofit.text import check_amounts, healing_text
from newllm.retrofit.token_ids import read_ids
from newllm.tensor_files import digest_of_tensors, tensors_of
from newllm.wording import count, describe_seconds

logger = logging.getLogger(__name__)
# Passes over a token that a step of training costs, beside one that only reads it (Kaplan et al. 2020, sec. 2.1).
TRAINING_PASSES = 3
SCORES_FOLDER = "scores"
IDENTITY_FILE = "identity.json"


@dataclass(frozen=True)
class Retrofit:
    """What became of a model.

    Attributes
    ----------
    model
        The model of the last stage.
    report
        One row a stage, as `retrofit` describes it.
    window_losses
        Mean loss of each test window (N,), nats a token, by stage.
    """

    model: Decoder
    report: pd.DataFrame
    window_losses: dict[str, NDArray[np.float64]]


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
        Token ids of text like that which the model was trained on, a row (N,), or windows (B, T) that are read one
        after the other as one row, by its tokenizer: to measure the inputs of layers, and to heal on.
    method
        ``mla``, ``mqa`` or ``cla``.
    scored_ids
        Ids of held-out text to score every stage on, in windows of the same length; a fifth of the calibration ids,
        held back, where omitted.
    bytes_per_token
        Bytes of text that each id stands for (V,), for bits per byte; those are left empty where omitted.
    folder
        Where checkpoints of healing and scores are kept, from which it goes on; a temporary one where omitted.
    seed
        Of healing and of the random control.
    settings
        See `newllm.config.retrofit.RetrofitParameters`.

    Returns
    -------
    Decoder
        The new model, in the parent's dtype; its ``report`` is a frame with one row a stage: stage, bytes_per_token
        (measured, float32), kept (share of the original's), perplexity, bits_per_byte, accuracy, difference (nats a
        token from the original on the same windows, with its 95 % interval over document groups), the measures of
        recall of `newllm.evaluation.recall_report.MEASURES`, energy_lost (share of the energy of keys and values, mean
        over layers), energy_lost_by_layer, healing_tokens, control.

    Raises
    ------
    ValueError
        Where the model, the ids or the settings do not fit, or the folder is that of another retrofit, in one sentence,
        before anything is trained or written.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed={seed} must be a whole number from 0 to {LARGEST_SEED}")
    try:
        parameters = RetrofitParameters.model_validate({"method": method, **settings})
    except ValidationError as error:
        given = {"method": method, **settings}
        raise ValueError(explain(error, RetrofitParameters, "a retrofit", given, None)) from error
    parent = as_baseline(model)
    text = read_ids(parent, parameters, calibration_ids, scored_ids, bytes_per_token)
    evaluation = EvaluationParameters()
    most = most_passages(text.test, evaluation)
    if most is not None:
        evaluation = evaluation.model_copy(update={"repeated_passages": min(most, evaluation.repeated_passages)})
    check_amounts(text, parameters, evaluation)
    check(config_of(parent), parameters)
    if folder is not None:
        weights = digest_of_tensors(tensors_of(parent))
        identity = {**parameters.model_dump(mode="json"), "seed": seed, "weights": weights, "text": text.fingerprint}
        _refuse_another(folder, identity)
    converted = convert(parent, text, parameters, evaluation, folder=folder, seed=seed)
    vars(converted.model)["report"] = converted.report
    return converted.model


def _refuse_another(folder: Path, identity: dict[str, Any]) -> None:
    """Note in a new folder which retrofit it belongs to, and refuse that of another one."""
    noted = folder / IDENTITY_FILE
    if not noted.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(noted, identity)
    elif different := different_keys(read_json(noted), identity):
        raise ValueError(
            f"{folder} holds the checkpoints of another retrofit (other {', '.join(different)}): give another folder, "
            "or delete this one"
        )


def convert(
    parent: PythiaModel,
    text: TextSides,
    parameters: RetrofitParameters,
    evaluation: EvaluationParameters | None = None,
    *,
    folder: Path | None = None,
    seed: int = 0,
    scores: Scores | None = None,
) -> Retrofit:
    """Take a baseline through all stages; of the models on the way no more are kept than are needed at once.

    Parameters
    ----------
    parent
        The trained model.
    text
        The windows.
    parameters
        What becomes of it.
    evaluation
        How recall is measured; as everywhere where omitted.
    folder
        Where healing keeps its checkpoints, and scores are kept until all is done; a temporary one where omitted.
    seed
        Of healing and of the random control.
    scores
        Those of models that were scored before, which are not scored again.

    Raises
    ------
    ValueError
        As `retrofit`.
    """
    check(config_of(parent), parameters)
    evaluation = evaluation or EvaluationParameters()
    heads = read_all(parent)
    moments = _moments(parent, text, parameters)
    scores = scores or Scores()
    scored: list[ScoredStage] = []
    with _place(folder) as place:

        def report_on(stage: Stage) -> None:
            scores_of_stage = scores.of(stage.model, text, evaluation, Path(place) / SCORES_FOLDER)
            scored.append(describe_stage(stage, scores_of_stage, scored[0] if scored else None, text))

        stage = Stage(ORIGINAL, parent)
        report_on(stage)
        _say_how_long(scored[0], text, parameters)
        for stage in _conversion(parent, heads, moments, parameters):
            report_on(stage)
        result = stage
        if parameters.healing_tokens:
            result = replace(stage, name=HEALED, model=copy.deepcopy(stage.model))
            result = _heal(result, parent, text, parameters, Path(place), seed)
            report_on(result)
        if parameters.controls:
            for control in _controls(parent, stage.model, heads, moments, parameters, seed):
                report_on(_heal(control, parent, text, parameters, Path(place), seed))
    report = pd.DataFrame([each.row for each in scored])
    return Retrofit(result.model, report, {each.row["stage"]: each.window_losses for each in scored})


def _moments(parent: PythiaModel, text: TextSides, parameters: RetrofitParameters) -> list[Moments]:
    """Gather the moments of the inputs of all layers."""
    norms = {number: layer.input_layernorm for number, layer in enumerate(blocks_of(parent))}
    ids = text.train.stream(parameters.calibration_windows).view(-1, text.train.seq_length)
    by_layer = calibrate(parent, norms, ids.split(parameters.batch_size))
    return [by_layer[number] for number in range(len(norms))]


def _say_how_long(original: ScoredStage, text: TextSides, parameters: RetrofitParameters) -> None:
    """Say how long the other stages, healing and the controls will take, by what the original took."""
    controls = (2 + bool(parameters.healing_tokens)) if parameters.controls else 0
    healed = (1 + controls) if parameters.healing_tokens else 0
    others = {"mla": 2, "mqa": 1, "cla": 1}[parameters.method] + controls + bool(healed)
    seconds_per_token = original.reading_seconds / (len(text.test) * text.test.seq_length)
    held_out = len(text.validation) * text.validation.seq_length * (1 + parameters.healing_evaluations)
    healing = (TRAINING_PASSES * parameters.healing_tokens + held_out) * seconds_per_token
    logger.info(
        "%d more stages and controls to score, %d of them healed: about %s.",
        others,
        healed,
        describe_seconds(others * original.seconds + healed * healing),
    )


def _place(folder: Path | None) -> AbstractContextManager[Path | str]:
    """Give the folder, or a temporary one that goes away again."""
    return tempfile.TemporaryDirectory(prefix="newllm-retrofit-") if folder is None else nullcontext(folder)


def _heal(
    stage: Stage, parent: PythiaModel, text: TextSides, parameters: RetrofitParameters, place: Path, seed: int
) -> Stage:
    """Heal the model of a stage in place; without tokens to heal on it stays as it is."""
    if not parameters.healing_tokens:
        return stage
    healing = healing_text(text, parameters.healing_tokens)
    tokens = len(healing.train) * healing.train.seq_length
    logger.info("Healing: %s, %d tokens.", stage.name, tokens)
    heal(stage.model, parent, healing, parameters, place / stage.name.replace(" ", "_"), seed)
    return replace(stage, healing_tokens=tokens)


def _conversion(
    parent: PythiaModel, heads: Sequence[Heads], moments: Sequence[Moments], parameters: RetrofitParameters
) -> Iterator[Stage]:
    """Make the stages between the original and healing, one at a time."""
    if parameters.method == "mqa":
        grouped, lost = build_grouped_model(parent, heads, moments, parameters)
        yield Stage(f"heads averaged, {parameters.averaging}", grouped, lost)
    elif parameters.method == "cla":
        yield Stage("layers averaged", build_sharing_model(parent, heads, parameters))
    else:
        shape = shape_of(config_of(parent), parameters)
        layers = prepare_layers(heads, moments, shape, parameters)
        full = [shape.full_rank] * len(layers)
        yield Stage(ABSORBABLE, build_latent_model(parent, layers, full, "plain", parameters)[0])
        widths = latent_widths(layers, shape, latent_width(config_of(parent), parameters), parameters)
        factorised, lost = build_latent_model(parent, layers, widths, parameters.factorisation, parameters)
        yield Stage(f"factorised, {parameters.factorisation}", factorised, lost)


def _controls(
    parent: PythiaModel,
    converted: Decoder,
    heads: Sequence[Heads],
    moments: Sequence[Moments],
    parameters: RetrofitParameters,
    seed: int,
) -> Iterator[Stage]:
    """Make what the converted model is to be compared with, before healing, one at a time."""
    random = with_random_attention(copy.deepcopy(converted), seed)
    yield Stage(RANDOM_PARTS, random, is_control=True)
    if parameters.healing_tokens:
        yield Stage(NOT_COMPRESSED, copy.deepcopy(parent), is_control=True)
    groups = heads[0].keys.shape[0]
    kept = _values_per_token(converted) / _values_per_token(parent)
    fewer = [number for number in range(1, groups) if groups % number == 0]
    if parameters.method != "mqa" and fewer:
        nearest = min(fewer, key=lambda number: abs(math.log(number / groups / kept)))
        averaging = RetrofitParameters(method="mqa", num_key_value_heads=nearest)
        grouped, lost = build_grouped_model(parent, heads, moments, averaging)
        yield Stage(count(nearest, AVERAGED_HEAD), grouped, lost, is_control=True)


def _values_per_token(model: Decoder) -> int:
    """Values that a model keeps of each token, by formula."""
    return model.cached_values(2) - model.cached_values(1)

"""Arms of a comparison, by name: ``pythia``, ``dproj-random``, ``dproj-oacd-frozen-embedding``, ``mla@kv_dim=64``."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from transformers import PreTrainedConfig

from newllm import models
from newllm.config.experiment import ExperimentParameters
from newllm.config.groups import ModelParameters
from newllm.config.methods import CHECKPOINT_PREFIX, method_of
from newllm.config.values import ValueFormatError, read_value, split_items, write_value
from newllm.models.language_model import LanguageModel
from newllm.models.position import PositionEncodingConfig
from newllm.models.registry import BASELINE, configure, find
from newllm.wording import did_you_mean

DEFAULT_TREATMENT, UNTREATED = "oacd", "random"
PROJECTION_TREATMENTS = (DEFAULT_TREATMENT, UNTREATED, "end-to-end")
FROZEN_EMBEDDING = "frozen-embedding"
LENT_EMBEDDING = "lent-embedding"

# Kernels like widths that are multiples of a power of two; Pythia pads its vocabulary (50,277 -> 50,304) likewise.
VOCABULARY_MULTIPLE = 64

VOCABULARY_SETTING = "vocab_size"
GRAMMAR = "<model>[-oacd|-random|-end-to-end][-lent-embedding][-frozen-embedding][@setting=value,...]"


class ArmError(ValueError):
    """An arm that cannot be built; the message is one sentence that says what is allowed."""


def folder_name(arm: str) -> str:
    """Return the name of an arm with what no folder's name should hold as underscores."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", arm)


@dataclass(frozen=True)
class Arm:
    """One way to build and train a model.

    Attributes
    ----------
    method
        Name of the model in the registry.
    projection
        What happens to the recurrence: ``oacd`` (trained by OACD, then frozen), ``random`` (frozen as initialised),
        ``end-to-end`` (trained with the rest). None for a model without one.
    lent_embedding
        Whether the token embedding begins as that of a baseline trained on the same data, so that OACD learns on one
        that means something. (Models that read a stream take one over anyway.)
    frozen_embedding
        Whether the token embedding stays as it is in main training.
    overrides
        Fields of the model's config, by name; lists as tuples, mappings as frozen sets of pairs.
    """

    method: str
    projection: str | None = None
    lent_embedding: bool = False
    frozen_embedding: bool = False
    overrides: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an arm as users write it.

        A recurrence is trained by OACD where nothing is said: projection training is left out by name only.

        Parameters
        ----------
        text
            A model's name; for a model with a recurrence its treatment; whether the embedding is lent, and whether it
            is frozen; overrides.

        Raises
        ------
        ArmError
            For whatever is not of this form, with the nearest thing that is.
        """
        if text.startswith(CHECKPOINT_PREFIX):
            raise ArmError(f"arm {text!r} is a trained model, which comparisons score: nothing is trained of it here.")
        body, at, settings = text.strip().partition("@")
        method = method_of(body, models.names())
        if method is None:
            hint = did_you_mean(body.split("-")[0], models.names())
            raise ArmError(
                f"arm {text!r} names no model{hint}: write {GRAMMAR} with one of {', '.join(models.names())}, or "
                f"{CHECKPOINT_PREFIX}<folder> for a trained model."
            )
        rest, frozen_embedding = _without(body.removeprefix(method), FROZEN_EMBEDDING)
        rest, lent_embedding = _without(rest, LENT_EMBEDDING)
        treatment = rest.removeprefix("-")
        if rest and treatment not in PROJECTION_TREATMENTS:
            raise ArmError(
                f"arm {text!r} asks for {treatment!r}: after the model {method} come one of "
                f"{', '.join(PROJECTION_TREATMENTS)}, then {LENT_EMBEDDING}, then {FROZEN_EMBEDDING}, each of which "
                f"may be left out ({GRAMMAR})."
            )
        if treatment and not has_recurrence(method):
            raise ArmError(f"arm {text!r} treats a recurrence, but {method} has none: write {method!r}.")
        if lent_embedding and reads_stream(method):
            raise ArmError(
                f"arm {text!r} asks for {LENT_EMBEDDING}, but {method} takes over an embedding anyway: leave it out."
            )
        if not treatment and has_recurrence(method):
            treatment = DEFAULT_TREATMENT
        overrides = _overrides(text, settings) if at else ()
        return cls(method, treatment or None, lent_embedding, frozen_embedding, overrides)

    @property
    def name(self) -> str:
        """The arm's full name; equal arms have equal names, and `parse` reads it back."""
        parts = [
            self.method,
            self.projection,
            LENT_EMBEDDING if self.lent_embedding else None,
            FROZEN_EMBEDDING if self.frozen_embedding else None,
        ]
        settings = ",".join(f"{key}={write_value(_thawed(value))}" for key, value in self.overrides)
        return "-".join(part for part in parts if part) + (f"@{settings}" if settings else "")

    @property
    def folder_name(self) -> str:
        """The name with nothing that a file system or a shell could mind."""
        return folder_name(self.name)

    @property
    def trains_projection(self) -> bool:
        """Whether its recurrences are trained by projection training."""
        return self.projection == DEFAULT_TREATMENT

    @property
    def reads_stream(self) -> bool:
        """Whether its model is trained on one continuous stream."""
        return reads_stream(self.method)

    def settings(self, parameters: ModelParameters) -> dict[str, Any]:
        """Fields of the model's config that are not the size's: what the parameters give, then the arm's own.

        A parameter that is named as a setting of the model sets it, where it is not None.
        """
        own = {key: _thawed(value) for key, value in self.overrides}
        known = find(self.method).settings & type(parameters).model_fields.keys()
        given = {name: getattr(parameters, name) for name in sorted(known)}
        return {name: value for name, value in given.items() if value is not None} | own

    def configure(self, parameters: ModelParameters) -> PreTrainedConfig:
        """Make the config of the model that these parameters give; nothing is built.

        Raises
        ------
        ArmError
            Where there is no such model.
        """
        overrides = dict(self.overrides)
        if self.frozen_embedding and overrides.get("freeze_embedding") is False:
            raise ArmError(f"arm {self.name!r} freezes the embedding and says freeze_embedding=false: leave one out.")
        if self.projection in ("random", "end-to-end") and "data_split" in overrides:
            raise ArmError(
                f"arm {self.name!r} says what its recurrences are trained on, but has no projection training: leave "
                "data_split out."
            )
        try:
            return configure(self.method, parameters.size, **self.settings(parameters))
        except ValueError as error:
            raise ArmError(f"arm {self.name!r}: {error}") from error

    def as_trained(self, parameters: ModelParameters) -> Self:
        """Return the arm by the name of what it trains: settings that say what is so anyway make no other arm.

        ``unified@position=rope`` is ``pythia``, and ``mla@kv_dim=64`` is ``mla`` where 64 is its size's width. What is
        rounded has the name of what it is rounded to.

        Raises
        ------
        ArmError
            Where there is no such model.
        """
        config = self.configure(parameters)
        wanted = config.to_dict()
        if self.frozen_embedding and wanted.get("freeze_embedding"):
            return replace(self, frozen_embedding=False).as_trained(parameters)
        read = tuple((name, _frozen(_setting_of(config, name))) for name, _ in self.overrides)
        # By their forms, too: 1 is equal to 1.0, but not the same name.
        if repr(read) != repr(self.overrides):
            return replace(self, overrides=read).as_trained(parameters)
        model_class = find(self.method).model_class
        for method in sorted(models.names(), key=lambda name: name != BASELINE):
            if find(method).model_class is model_class:
                plain = replace(self, method=method, overrides=())
                if plain.configure(parameters).to_dict() == wanted:
                    return plain
        shortest = self
        for override in self.overrides:
            kept = tuple(other for other in shortest.overrides if other != override)
            try:
                if replace(shortest, overrides=kept).configure(parameters).to_dict() == wanted:
                    shortest = replace(shortest, overrides=kept)
            except ArmError:  # the other settings need this one
                continue
        return shortest

    def build(self, parameters: ModelParameters, vocabulary: int, seed: int) -> LanguageModel:
        """Build the model as ``seed`` initialises it; the treatments of one method start from the same weights.

        Parameters
        ----------
        parameters
            The run's parameters: the size, and settings of the model.
        vocabulary
            Tokens in the tokenizer; the model's vocabulary is the next multiple of 64.
        seed
            Seed of the weights.
        """
        padded = -(-vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        settings: Mapping[str, Any] = {"vocab_size": padded, **self.settings(parameters)}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return models.create(self.method, parameters.size, **settings)


def trained_arms(parameters: ExperimentParameters) -> list[Arm]:
    """Return the arms of a comparison that are trained, by what they train; no checkpoint is among them.

    Raises
    ------
    ArmError
        Where one cannot be built, or two are the same arm by different names.
    """
    names: dict[Arm, str] = {}
    for text in parameters.arms:
        if text.startswith(CHECKPOINT_PREFIX):
            continue
        arm = Arm.parse(text).as_trained(parameters)
        if arm in names:
            raise ArmError(f"arms has {names[arm]!r} and {text!r}, but both are {arm.name}: leave one out.")
        names[arm] = text
    return list(names)


def has_recurrence(method: str) -> bool:
    """Tell whether a model has a recurrence, as its class declares; nothing is built."""
    return find(method).model_class.recurrence


def reads_stream(method: str) -> bool:
    """Whether a model is trained on one continuous stream, as its class declares; nothing is built."""
    return find(method).model_class.recipe.continuous


def begins_lent(names: Iterable[str]) -> bool:
    """Tell whether one of these arms begins with a lent embedding; what is a trained model says nothing of it."""
    return any(Arm.parse(name).lent_embedding for name in names if not name.startswith(CHECKPOINT_PREFIX))


def _without(name: str, ending: str) -> tuple[str, bool]:
    """Take an ending off a name, and tell whether it was there."""
    return name.removesuffix(f"-{ending}"), name.endswith(f"-{ending}")


def _setting_of(config: PreTrainedConfig, name: str) -> Any:
    """Return what a config made of a setting: a field of it, or of its position encoding."""
    if name not in PositionEncodingConfig.settings() | {"position"}:
        return getattr(config, name)
    position = PositionEncodingConfig.parse(config.position)
    return position.type if name == "position" else getattr(position, name)


def _overrides(text: str, settings: str) -> tuple[tuple[str, Any], ...]:
    try:
        pairs = [setting.partition("=") for setting in split_items(settings)]
    except ValueFormatError as error:
        raise ArmError(f"arm {text!r} has settings that are no values: {error}.") from None
    if not pairs or not all(key.strip() and equals and value.strip() for key, equals, value in pairs):
        raise ArmError(f"arm {text!r} has settings that are not of the form @setting=value,setting=value.")
    try:
        given = [item for key, _, value in pairs for item in _one_by_one(key.strip(), read_value(value))]
    except ValueFormatError as error:
        raise ArmError(
            f"arm {text!r} has a setting that is no value, write [a, b] or {{key: value}}: {error}."
        ) from None
    values = {key: _frozen(value) for key, value in given}
    if len(values) < len(given):
        raise ArmError(f"arm {text!r} gives a setting twice.")
    if VOCABULARY_SETTING in values:
        raise ArmError(
            f"arm {text!r} sets {VOCABULARY_SETTING}, which follows from the tokenizer: leave it out, and set the "
            "parameter tokenizer, such as bpe:4096."
        )
    return tuple(sorted(values.items()))


def _one_by_one(key: str, value: Any) -> list[tuple[str, Any]]:
    """Return a setting as it is, and a whole position encoding as its single settings, so that both have one name."""
    if key != "position" or not isinstance(value, dict):
        return [(key, value)]
    encoding = {"type": PositionEncodingConfig.type, **value}
    return [(key, encoding.pop("type")), *encoding.items()]


def _frozen(value: Any) -> Any:
    """Make a value of YAML comparable and hashable, as arms are."""
    match value:
        case list():
            return tuple(map(_frozen, value))
        case dict():
            return frozenset((key, _frozen(item)) for key, item in value.items())
        case _:
            return value


def _thawed(value: Any) -> Any:
    """Return what `_frozen` was given."""
    match value:
        case tuple():
            return list(map(_thawed, value))
        case frozenset():
            return {key: _thawed(item) for key, item in sorted(value, key=lambda pair: str(pair[0]))}
        case _:
            return value

"""The parameters of a retrofit: what becomes of the attention of a trained model, on which text, how it is healed."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from newllm.config.errors import explain
from newllm.config.fields import LONGEST_WINDOW, Count, Flag, Rate, Real, Whole, WindowCount
from newllm.config.groups import TrainingParameters, _Group
from newllm.config.values import read_value, split_items


class RetrofitParameters(_Group):
    """A trained model in, one with a smaller cache out."""

    method: Literal["mla", "mqa", "cla"] = Field(
        "mla", description="what keys and values become: latents, those of fewer heads, or those of fewer layers"
    )
    # Latents.
    kv_dim: Count | None = Field(None, description="width of the latent of a layer; None: as keep says")
    keep: Annotated[Real, Field(gt=0, le=1)] | None = Field(
        None, description="share of the cache to keep, rotary keys included; None: half of what is not rotated"
    )
    factorisation: Literal["weighted", "plain", "split"] = Field(
        "weighted",
        description="by the covariance of the inputs, of the weights alone, or by it with keys and values apart",
    )
    ranks: Literal["uniform", "energy"] = Field(
        "uniform", description="widths of the latents: the same in every layer, or given out by the energy lost"
    )
    rotary_pairs: Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="pairs of a head that stay rotated, which no latent can hold; None: all that are"
    )
    rotary_choice: Literal["norm", "uniform", "high", "low"] = Field(
        "norm", description="which pairs: the largest on the calibration text, evenly spread, or by their frequency"
    )
    rotary_heads: Literal["each", "shared"] = Field(
        "each", description="whether each key head keeps a rotary key of its own, or all share the best one"
    )
    # Fewer heads, fewer layers.
    num_key_value_heads: Count = Field(1, description="key-value heads that are left")
    averaging: Literal["aligned", "naive"] = Field(
        "aligned", description="heads are averaged after they were turned to each other, or as they are"
    )
    layers_sharing: Annotated[Whole, Field(ge=2)] = Field(
        2, description="neighbouring layers that share keys and values"
    )
    # Calibration, healing, controls.
    seq_length: Annotated[Whole, Field(ge=2, le=LONGEST_WINDOW)] | None = Field(
        None, description="tokens of a window; None: as the ids are given, or 512 of a single row"
    )
    calibration_windows: Count = Field(64, description="windows of which the covariance is taken")
    healing_tokens: Annotated[Whole, Field(ge=0)] = Field(0, description="tokens of training after the conversion")
    healing_loss: Literal["cross-entropy", "kl"] = Field(
        "cross-entropy", description="what healing follows: the text, or the original's distribution"
    )
    healing_parts: Literal["changed", "all"] = Field(
        "changed", description="what healing trains: the attention that was changed, or everything"
    )
    healing_lr: Rate = Field(3e-4, description="learning rate of healing, after its warm-up")
    healing_evaluations: Count = Field(
        1, description="held-out losses in healing, evenly spaced; with each a checkpoint is written"
    )
    batch_size: Count = Field(8, description="windows in a step of healing, and in a pass of calibration")
    controls: Flag = Field(True, description="whether the controls are made and healed too")

    # Settings that one method reads, by the method.
    OF_METHOD: ClassVar[dict[str, frozenset[str]]] = {
        "mla": frozenset({"kv_dim", "keep", "factorisation", "ranks", "rotary_pairs", "rotary_choice", "rotary_heads"}),
        "mqa": frozenset({"num_key_value_heads", "averaging"}),
        "cla": frozenset({"layers_sharing"}),
    }

    OF_HEALING: ClassVar[frozenset[str]] = frozenset(
        {"healing_loss", "healing_parts", "healing_lr", "healing_evaluations"}
    )

    # What a notebook says of all its retrofits, by parameters of the same names.
    OF_NOTEBOOK: ClassVar[tuple[str, ...]] = ("calibration_windows", "healing_tokens", "seq_length")

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        for method, names in self.OF_METHOD.items():
            unread = sorted(names & self.model_fields_set)
            if method != self.method and unread:
                raise ValueError(f"{unread[0]} does nothing for {self.method}: it belongs to {method}, leave it out")
        if self.kv_dim is not None and self.keep is not None:
            raise ValueError("kv_dim and keep both say how wide a latent is: leave one out")
        if "rotary_choice" in self.model_fields_set and self.rotary_pairs is None:
            raise ValueError("rotary_choice does nothing where all pairs stay: give rotary_pairs too, or leave it out")
        if self.healing_tokens == 0 and self.model_fields_set & self.OF_HEALING:
            raise ValueError("healing settings do nothing without healing_tokens: give a number of tokens above 0")
        return self

    @classmethod
    def parse(cls, text: str, **more: Any) -> Self:
        """Read a retrofit as notebooks write it: ``mla@keep=0.25,factorisation=plain``.

        Parameters
        ----------
        text
            The method, and its settings.
        more
            Settings that are not written there.

        Raises
        ------
        ValueError
            Says what is wrong; settings that are the notebook's own are, too.
        """
        method, _, settings = text.strip().partition("@")
        pairs = [item.partition("=") for item in split_items(settings)] if settings else []
        if not all(key.strip() and equals and value.strip() for key, equals, value in pairs):
            raise ValueError(f"retrofit {text!r} has settings that are not of the form @setting=value,setting=value")
        names = [key.strip() for key, _, _ in pairs]
        if "method" in names:
            raise ValueError(f"retrofit {text!r} has its method before the @: leave method out of its settings")
        if len(set(names)) < len(names):
            raise ValueError(f"retrofit {text!r} gives a setting twice: leave one out")
        shared = [name for name in names if name in cls.OF_NOTEBOOK]
        if shared:
            raise ValueError(
                f"retrofit {text!r} sets {shared[0]}, which is the same for all retrofits: leave it out, and give the "
                f"parameter {shared[0]} instead"
            )
        given = {key.strip(): read_value(value) for key, _, value in pairs}
        try:
            return cls(**{"method": method.strip(), **more, **given})
        except ValidationError as error:
            raise ValueError(f"retrofit {text!r}: {explain(error, cls, 'a retrofit', given, text)}") from error

    def windows_to_learn(self, seq_length: int) -> int:
        """Return how many windows of that length are calibrated and healed on."""
        return max(self.calibration_windows, -(-self.healing_tokens // seq_length))

    def refuse_amounts(self, windows: int, seq_length: int) -> None:
        """Refuse more than a text has, healing of a single step, and numbers that change nothing in a text of its size.

        The learning rate of a single step is the zero that healing begins with.

        Parameters
        ----------
        windows
            That there are to calibrate and to heal on.
        seq_length
            Tokens of each.

        Raises
        ------
        ValueError
            In one sentence.
        """
        there, step = windows * seq_length, self.batch_size * seq_length
        if "calibration_windows" in self.model_fields_set and self.calibration_windows > windows:
            raise ValueError(
                f"calibration_windows={self.calibration_windows} is more than the {windows} windows of {seq_length} "
                "tokens that there are: give more text, or ask for fewer"
            )
        if self.healing_tokens > there:
            raise ValueError(
                f"healing_tokens={self.healing_tokens} is more than the {there:,} tokens that there are to heal on: "
                "give more text, or ask for fewer"
            )
        if 0 < self.healing_tokens <= step:
            raise ValueError(
                f"healing_tokens={self.healing_tokens} is one step of healing, whose learning rate is still 0: give "
                f"more than {step:,}, or a smaller batch_size"
            )
        read = min(windows, self.windows_to_learn(seq_length))
        # The default serves texts of every length.
        if self.batch_size > max(read, type(self).model_fields["batch_size"].default):
            raise ValueError(f"batch_size={self.batch_size} is more than the {read} windows that are read: give fewer")
        steps = -(-self.healing_tokens // step)
        if self.healing_tokens and self.healing_evaluations > steps:
            raise ValueError(
                f"healing_evaluations={self.healing_evaluations} is more than the {steps} steps of healing: give "
                "fewer, or more healing_tokens"
            )

    @property
    def training(self) -> TrainingParameters:
        """Healing as main training: one pass, a warm-up of a twentieth and a linear fall."""
        return TrainingParameters(
            epochs=1,
            lr=self.healing_lr,
            batch_size=self.batch_size,
            schedule="linear",
            warmup=0.05,
            evaluations=self.healing_evaluations,
        )


class RetrofitFiles(_Group):
    """Text of a user's for a retrofit, instead of a source that is split: a file to calibrate on, one to score on."""

    calibration_file: Path = Field(description="a .txt or .jsonl file to calibrate and to heal on")
    scored_file: Path = Field(description="a .txt or .jsonl file that every stage is scored on")
    scored_windows: WindowCount = Field("all", description="of how many windows of it, the first ones")
    seq_length: Annotated[Whole, Field(ge=2, le=LONGEST_WINDOW)] = Field(512, description="tokens of a window")

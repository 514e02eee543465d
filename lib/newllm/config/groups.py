"""Every parameter, typed, in groups: text, model, projection training, main training, comparison, run.

Names are flat, and one name means the same thing everywhere.
"""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from newllm.config.contents import digests_of_files
from newllm.config.fields import (
    ADAMW,
    LONGEST_SEQUENCE,
    LONGEST_WINDOW,
    ArmNames,
    BenchmarkNames,
    Count,
    Counts,
    Flag,
    MatrixRate,
    Names,
    Rate,
    Real,
    Seed,
    Seeds,
    SizeName,
    Texts,
    Whole,
    WindowCount,
)
from newllm.files import digest_of_json

# Parameters of training that change what memory it takes, and its numbers by rounding alone.
MEMORY_PARAMETERS = ("micro_batch_size", "gradient_checkpointing")
FACT_REPETITIONS = 10  # so often are facts taught where nothing else is said


class _Group(BaseModel):
    """What all parameter groups share: unknown names are errors and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def _default(cls, name: str) -> Any:
        return cls.model_fields[name].default


class DataParameters(_Group):
    """Which text is read, how it is cut into tokens, and how much of it."""

    source: Literal["pile", "wikitext", "ultrachat", "sotu", "stdlib", "text"] = Field(
        "sotu", description="where the text comes from; sotu and stdlib are offline, text is your own files"
    )
    text_files: Names | None = Field(None, description=".txt and .jsonl files, folders or patterns, for source text")
    tokenizer: str = Field("bpe:4096", description="a hub id, a tokenizer.json, or bpe:<size> trained on the text")
    samples: WindowCount = Field(description="the number of training windows, or all that the text gives")
    seq_length: Annotated[Whole, Field(ge=2, le=LONGEST_WINDOW)] = Field(description="the tokens of one window")
    val_samples: WindowCount = Field(200, description="the number of validation windows, which choose the best epoch")
    test_samples: WindowCount = Field(200, description="the number of test windows, which every result is of")
    validation_percent: Annotated[Whole, Field(ge=1, le=98)] = Field(
        10, description="of how many document groups in a hundred the validation windows are cut, and no others"
    )
    test_percent: Annotated[Whole, Field(ge=1, le=98)] = Field(
        10, description="of how many document groups in a hundred the test windows are cut, and no others"
    )

    @field_validator("tokenizer")
    @classmethod
    def _check_tokenizer(cls, value: str) -> str:
        kind, colon, size = value.partition(":")
        # 256 byte values, end-of-text and padding are in every vocabulary that is trained here.
        is_size = re.fullmatch(r"[1-9][0-9]{2,7}", size) is not None and int(size) > 257
        if not value.strip() or (colon and kind == "bpe" and not is_size):
            raise ValueError("it must be a hub id, a path of a tokenizer.json, or bpe:<size> with a size over 257")
        return value

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.validation_percent + self.test_percent > 99:
            raise ValueError(
                f"validation_percent is {self.validation_percent} and test_percent {self.test_percent}, but together "
                "they must be at most 99, so that some text is left to train on"
            )
        return self

    @model_validator(mode="after")
    def _check_text_files(self) -> Self:
        if self.source == "text" and self.text_files is None:
            raise ValueError("source is text, which needs text_files: a list of files, folders or patterns")
        if self.source != "text" and self.text_files is not None:
            raise ValueError(
                f"text_files is {list(self.text_files)}, but source is {self.source}: give source=text to read them"
            )
        return self


class ModelParameters(_Group):
    """The size of the models."""

    size: SizeName = Field("mini", description="the size of the models, by the Pythia of that shape")


class ProjectionParameters(_Group):
    """The recurrence and its training without labels: Origin-Anchored Centroid Dispersion, OACD."""

    proj_dim: Count | None = Field(None, description="width of a context; None: as the model's size says")
    projection_samples: WindowCount = Field(
        1000, description="the number of training windows the projection learns from, of all samples at most"
    )
    projection_lr: Rate = Field(0.003, description="learning rate of projection training")
    initial_context_std: Annotated[Real, Field(ge=0)] = Field(
        0.01, description="standard deviation of the random contexts that the first pass starts from"
    )
    proj_noise: Annotated[Real, Field(ge=0)] = Field(0.05, description="standard deviation of the added noise")
    max_iterations: Annotated[Whole, Field(ge=2)] = Field(100, description="passes at most, the first one included")
    convergence_threshold: Annotated[Real, Field(gt=0)] = Field(
        0.03, description="mean squared change between two passes below which the context of a token has converged"
    )
    convergence_target: Annotated[Real, Field(gt=0, le=1)] = Field(0.95, description="share of tokens to stop at")
    centroid_weight: Annotated[Real, Field(ge=0)] = Field(
        0.1, description="weight of the squared distance of the mean context from the origin in the OACD loss"
    )
    projection_batch_size: Annotated[Whole, Field(ge=2)] = Field(5000, description="tokens in a mini-batch")
    projection_clip: Annotated[Real, Field(gt=0)] = Field(2.0, description="largest gradient norm")


class ProjectionDataParameters(DataParameters, ProjectionParameters):
    """Data and a projection that learns from a part of it."""

    @model_validator(mode="after")
    def _limit_projection_samples(self) -> Self:
        # So that fewer samples can be asked for alone. The values are frozen for everybody else.
        if self.samples != "all":
            learned = self.samples if self.projection_samples == "all" else min(self.projection_samples, self.samples)
            object.__setattr__(self, "projection_samples", learned)
        return self


class TrainingParameters(_Group):
    """Main training: next-token cross-entropy."""

    epochs: Count = Field(description="the number of passes over the training windows, at most")
    lr: Rate = Field(1e-4, description="learning rate of main training")
    matrix_lr: MatrixRate = Field(
        ADAMW, description="learning rate of the blocks' matrices, which Muon then takes; adamw: AdamW takes them too"
    )
    batch_size: Count = Field(8, description="windows in a step of main training")
    clip: Annotated[Real, Field(gt=0)] = Field(1.0, description="largest gradient norm")
    patience: Count = Field(1, description="epochs without improvement after which training stops")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32", description="dtype of the products in training; tf32 is for NVIDIA's GPUs"
    )
    weight_decay: Annotated[Real, Field(ge=0)] = Field(0.01, description="weight decay of AdamW")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the learning rate falls behind the warm-up: not at all, or to zero at the end"
    )
    warmup: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.0, description="share of all steps over which the learning rate rises from zero"
    )
    adam_beta1: Annotated[Real, Field(ge=0, lt=1)] = Field(0.9, description="AdamW's decay of the mean gradient")
    adam_beta2: Annotated[Real, Field(ge=0, lt=1)] = Field(0.999, description="and of its mean square")
    evaluations: Count = Field(
        1, description="held-out losses in each pass, evenly spaced; with each a checkpoint is written"
    )
    micro_batch_size: Count | None = Field(
        None, description="windows of a step whose gradients are taken at once, for less memory; None: all"
    )
    gradient_checkpointing: Flag = Field(
        False, description="whether gradients compute activations again instead of keeping them, for less memory"
    )

    @model_validator(mode="after")
    def _limit_batch_size(self) -> Self:
        # The default serves windows of every number.
        samples = self.samples if isinstance(self, DataParameters) else "all"
        if samples != "all" and self.batch_size > max(samples, self._default("batch_size")):
            raise ValueError(
                f"batch_size is {self.batch_size}, but it must be at most samples ({samples}), the windows there are"
            )
        return self


class StreamParameters(ProjectionParameters, TrainingParameters):
    """Training of what reads contexts of one continuous stream (cascade, context-kv), which has its own rates."""

    embedding_source: str | None = Field(
        None, description="a hub id, a file, the folder of a run, or random; None: a baseline on the same data"
    )
    stream_lr: Rate = Field(0.001, description="lr of what reads the contexts")
    stream_tokens: Count = Field(1000, description="tokens of a step, one stretch of the stream")
    stream_projection_lr: Rate = Field(0.002, description="projection_lr of context blocks")
    stream_proj_noise: Annotated[Real, Field(ge=0)] = Field(0.1, description="proj_noise of context blocks")
    stream_max_iterations: Annotated[Whole, Field(ge=2)] = Field(60, description="max_iterations of context blocks")
    stream_convergence_target: Annotated[Real, Field(gt=0, le=1)] = Field(
        0.9, description="convergence_target of context blocks"
    )
    collection_chunk: Count = Field(10_000, description="tokens whose contexts are collected at a time")
    collection_tolerance: Annotated[Real, Field(gt=0)] = Field(
        1e-5, description="largest difference left where pieces meet that are collected side by side"
    )

    def for_context_blocks(self) -> Self:
        """Return these parameters with the stream's own values where projection training reads them."""
        names = ("projection_lr", "proj_noise", "max_iterations", "convergence_target")
        return self.model_copy(update={name: getattr(self, f"stream_{name}") for name in names})

    def for_reader(self, batch_size: int) -> Self:
        """Return these parameters with the stream's own lr, and so many stretches a step, for main training."""
        return self.model_copy(update={"lr": self.stream_lr, "batch_size": batch_size})


class RepeatedParameters(_Group):
    """What is repeated, so that chance can be told from what is compared."""

    seeds: Seeds = Field(description="the seeds that every arm is trained with")


class ComparisonParameters(RepeatedParameters):
    """Which arms are compared, and over which seeds. `newllm.experiments.arms` says which arms there are."""

    pretrained: Names | None = Field(
        None, description="trained weights to score beside the arms: hub ids, or folders with their tokenizer"
    )

    benchmarks: BenchmarkNames | None = Field(
        None, description="what trained models are asked: lambada, wikitext (of the hub), lambada:FILE; None: nothing"
    )

    projection_checkpoint: Path | None = Field(
        None,
        description="a folder that notebook 01 leaves, whose projection OACD arms begin with; None: they train one",
    )

    arms: ArmNames = Field(
        description="what is compared: <model>[-oacd|-random|-end-to-end][-lent-embedding][@setting=value,...] each"
    )
    processes: Annotated[Count, Field(le=256)] = Field(
        1, description="trials trained side by side, each on its share of the cores"
    )


class EvaluationParameters(_Group):
    """What a record says of a trained model beside its losses."""

    position_bands: Counts = Field(
        (16, 32, 64, 96), description="where the positions of a window are parted to give the perplexity of each part"
    )
    prompts: Texts = Field(
        ("The people of the United States", "At the end of the year"), description="beginnings that a model continues"
    )
    continuation_tokens: Annotated[Count, Field(le=LONGEST_WINDOW)] = Field(
        40, description="tokens of each continuation"
    )
    repeat_distances: Counts = Field(
        (64, 128, 192, 256, 384),
        description="tokens between a passage and its repetition; those that fit into a window are asked",
    )
    repeated_passages: Count = Field(128, description="passages that are repeated at each distance")
    timed_context: Annotated[Count, Field(le=LONGEST_SEQUENCE)] = Field(
        128, description="tokens in the cache when the speed of decoding is measured"
    )
    timed_tokens: Annotated[Count, Field(le=LONGEST_WINDOW)] = Field(
        16, description="tokens that are decoded to measure it"
    )


class FactParameters(_Group):
    """What is taught and asked about the reversal curse."""

    facts_file: Path | None = Field(
        None, description="a CSV of category, subject, relation, object; None: the 33 facts of the workbench"
    )
    fact_repetitions: Count = Field(FACT_REPETITIONS, description="how often the text of training says each fact")


class SeedParameters(_Group):
    """The seed of a notebook that compares nothing; it changes initialisation, order and noise, never the data."""

    seed: Seed = Field(0, description="the seed")


class LeaderboardFilters(_Group):
    """Which rows of the leaderboard are shown; None leaves out nothing."""

    sizes: Names | None = Field(None, description="sizes to show, such as [mini]")
    methods: Names | None = Field(None, description="models to show, such as [pythia, mla]")
    min_seeds: Count = Field(1, description="the fewest seeds that a row may have")
    budget: str | None = Field(None, description="the budget to show first, by its eight digits; None: the fullest")


class RunParameters(_Group):
    """Where and how a notebook runs."""

    notebook: ClassVar[str]

    profile: str = Field(description="the folder of params that the values come from, such as cpu")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:<number> or mps")
    output_folder: Path | None = Field(None, description="the run folder; None: one is named after the parameters")
    rerun: Flag = Field(False, description="whether to run again what is finished")

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError("it must be auto, cpu, cuda, cuda:<number> or mps")
        return value

    def identity(self) -> dict[str, Any]:
        """Return, as plain JSON values, what decides the result: parameters, and what the files hold that they name."""
        return self.deciding() | digests_of_files(self)

    def deciding(self) -> dict[str, Any]:
        """Return, as plain JSON values, the parameters that decide the result: not where, how and whether to run."""
        return self.model_dump(mode="json", exclude={"output_folder", "rerun", "processes", *MEMORY_PARAMETERS})

    def fingerprint(self) -> str:
        """Return eight hexadecimal digits which differ where the identity differs."""
        return digest_of_json(self.identity())[:8]

    def to_yaml(self) -> str:
        """Return all parameters as YAML that `load_parameters` and papermill's ``-f`` read back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


# The settings that make results comparable: the same text and windows, the same training, models of one size. A record
# names them among its parameters.
BUDGET = (
    *DataParameters.model_fields,
    "data",
    *ModelParameters.model_fields,
    *(name for name in TrainingParameters.model_fields if name not in ("patience", "evaluations", *MEMORY_PARAMETERS)),
)

# Each arm has those that suit it.
LEARNING_RATES = ("lr", "matrix_lr", "stream_lr")

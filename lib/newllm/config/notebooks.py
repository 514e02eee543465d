"""The parameters of each notebook: one class, put together from the groups.

A new notebook adds a class of a few lines, an entry in `NOTEBOOKS` and its YAML files.
"""

import itertools
import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from newllm.config.counted_windows import CountedWindows
from newllm.config.experiment import ExperimentParameters, StudyParameters
from newllm.config.fields import (
    LONGEST_SEQUENCE,
    LONGEST_WINDOW,
    ArmNames,
    Budgets,
    Count,
    Counts,
    Lengths,
    Names,
    Real,
    Seeds,
    SizeName,
    VariantNames,
)
from newllm.config.groups import (
    DataParameters,
    FactParameters,
    LeaderboardFilters,
    ModelParameters,
    ProjectionDataParameters,
    RepeatedParameters,
    RunParameters,
    SeedParameters,
    TrainingParameters,
)
from newllm.config.methods import CHECKPOINT_PREFIX
from newllm.config.retrofit import RetrofitParameters
from newllm.config.usual import usual_values


class Overview(ModelParameters, SeedParameters, RunParameters):
    """Notebook 00: what every model keeps, and what that costs."""

    notebook = "00_overview"

    pictured_tokens: Annotated[Count, Field(le=LONGEST_WINDOW)] = Field(
        description="the length of the sequences in the pictures and of the checks"
    )
    calculator_size: SizeName = Field("70m", description="the size that the calculator begins with")
    calculator_tokens: Annotated[Count, Field(ge=2**4, le=2**20)] = Field(
        8192, description="the tokens of a sequence that the calculator begins with"
    )
    calculator_sequences: Count = Field(1, description="the sequences, decoded at once, that it begins with")
    calculator_dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="and the dtype")


class ProjectionTraining(ProjectionDataParameters, ModelParameters, RepeatedParameters, RunParameters):
    """Notebook 01: one recurrence trained with OACD, beside the same one untrained, and trained without its rules."""

    notebook = "01_projection_training"

    variants: VariantNames = Field(
        ("as it is", "without embed_norm", "xavier", "kaiming"),
        description="what is trained: the recurrence as it is, without a part of it, or initialised by another rule",
    )


class MainTraining(ExperimentParameters):
    """Notebook 02: whole models trained and compared, arm by arm."""

    notebook = "02_main_training"


class ReversalCurse(ExperimentParameters, FactParameters):
    """Notebook 05: facts taught in one direction, asked in both."""

    notebook = "05_reversal_curse"

    @model_validator(mode="after")
    def _check_that_all_are_taught(self) -> Self:
        scored = [arm for arm in self.arms if arm.startswith(CHECKPOINT_PREFIX)] + list(self.pretrained or ())
        if scored:
            raise ValueError(
                f"{scored[0]} is trained already, but here every model is taught the facts: ask it by newllm evaluate "
                "--facts, or leave it out"
            )
        return self


class Cascade(StudyParameters, CountedWindows):
    """Notebook 09: recurrences side by side and no attention, one thing changed at a time."""

    notebook = "09_cascade"
    base_method = "cascade"

    loop_tokens: Count = Field(20_000, description="tokens collected one by one, to time and check the parallel way")

    def check_windows(self, train: int | None, test: int | None) -> None:
        """Refuse a loop over more tokens than the training text has."""
        self.refuse_more("loop_tokens", None if train is None else train * self.seq_length + 1, "tokens to train on")


class ContextPythia(ExperimentParameters):
    """Notebook 07: one context for all layers, beside the controls that keep its bytes."""

    notebook = "07_context_pythia"

    memory_contexts: Lengths = Field((64, 256, 1024), description="tokens of context whose memory is counted")


class ContextKV(StudyParameters):
    """Notebook 08: attention to contexts that are kept once a chunk."""

    notebook = "08_context_kv"
    base_method = "context-kv"

    attended_position: Annotated[Count, Field(le=LONGEST_WINDOW)] = Field(
        350, description="the position whose attended contexts are counted"
    )
    attended_chunk_size: Annotated[Count, Field(le=LONGEST_WINDOW)] = Field(
        100, description="the tokens of a chunk in the picture of what is attended"
    )
    cache_lengths: Lengths = Field((100, 400, 1600), description="tokens after which the bytes of caches are counted")


class KeyAttention(ExperimentParameters):
    """Notebook 10: outputs in the place of values, and narrow values; read as trained and as not trained."""

    notebook = "10_key_attention_and_projected_values"

    tokens_a_step: Count = Field(1, description="tokens of each call where models are scored through the cache")

    @model_validator(mode="after")
    def _check_step(self) -> Self:
        if self.tokens_a_step > self.seq_length and self.tokens_a_step not in usual_values(self, "tokens_a_step"):
            raise ValueError(
                f"tokens_a_step is {self.tokens_a_step}, but a window has {self.seq_length} tokens: give fewer"
            )
        return self


class CausalMasks(DataParameters, ModelParameters, TrainingParameters, SeedParameters, RunParameters):
    """Notebook 03: every model's causality certificate, and a swapped mask that is caught."""

    notebook = "03_causal_masks"

    alibi_slope: Annotated[Real, Field(ge=2**-8, le=1)] = Field(
        description="by how much ALiBi lowers a score a token of distance"
    )


class PositionEncodings(CountedWindows):
    """Notebook 04: RoPE, ALiBi and no position encoding, in the training length and beyond."""

    notebook = "04_position_encodings"

    extrapolation_factors: Counts = Field((1, 2, 4), description="multiples of seq_length to score windows of")

    @model_validator(mode="after")
    def _check_extrapolation(self) -> Self:
        longest = max(self.extrapolation_factors) * self.seq_length
        if longest > LONGEST_SEQUENCE:
            raise ValueError(
                f"extrapolation_factors is {list(self.extrapolation_factors)}, which with seq_length {self.seq_length} "
                f"makes windows of {longest} tokens, but they must have {LONGEST_SEQUENCE} at most"
            )
        return self

    def check_windows(self, train: int | None, test: int | None) -> None:
        """Refuse fewer test windows than make windows of every length out of the same tokens."""
        needed = math.lcm(*self.extrapolation_factors)
        if test is not None and test < needed:
            there = "the {} that there are" if self.test_samples == "all" else "{}"
            raise ValueError(
                f"extrapolation_factors is {list(self.extrapolation_factors)}, which needs test_samples of {needed} or "
                f"more (their least common multiple) and not {there.format(test)}"
            )


class LatentAttention(CountedWindows):
    """Notebook 06: multi-head latent attention, what it keeps, and what it costs to decode."""

    notebook = "06_latent_attention"

    decode_size: SizeName = Field("70m", description="the size of the models that are timed")
    decode_contexts: Lengths = Field((256, 1024, 2048, 4096, 8192), description="tokens of context that are timed")
    decode_steps: Count = Field(16, description="timed tokens for each model and context")
    decode_prefill: Count | None = Field(
        None, description="tokens that are computed to fill a cache, then repeated; None: all of them"
    )
    precision_windows: Count = Field(64, description="test windows that are read through caches of fewer bits")

    @model_validator(mode="after")
    def _check_contexts(self) -> Self:
        ordered = sorted(self.decode_contexts)
        if any(longer - context <= self.decode_steps for context, longer in itertools.pairwise(ordered)):
            raise ValueError(
                f"decode_contexts is {list(self.decode_contexts)}, but they must lie more than decode_steps "
                f"({self.decode_steps}) apart"
            )
        prefill = self.decode_prefill
        if prefill is not None and prefill > ordered[-1] and prefill not in usual_values(self, "decode_prefill"):
            raise ValueError(
                f"decode_prefill is {prefill}, but the longest of decode_contexts has {ordered[-1]} "
                "tokens: give fewer, or leave it out to compute all of them"
            )
        return self

    def check_windows(self, train: int | None, test: int | None) -> None:
        """Refuse to read more windows through narrow caches than there are."""
        self.refuse_more("precision_windows", test, "test windows")


class Recall(CountedWindows):
    """Notebook 11: what of the past the models use, which perplexity hides."""

    notebook = "11_recall"

    needle_names: Names = Field(
        (
            "Mexico",
            "Spain",
            "China",
            "France",
            "Japan",
            "Cuba",
            "Russia",
            "Germany",
            "Panama",
            "Britain",
            "Nicaragua",
            "Texas",
            "California",
        ),
        description="names of which two are hidden in a text; those that are a single token of the tokenizer are used",
    )
    needle_distances: Counts = Field(
        (16, 64, 128, 192),
        description="tokens between the sentences with names and the question; those that fit into a window are asked",
    )
    needle_times: Counts = Field((1, 4), description="how often the sentences with names are said")
    needle_windows: Count = Field(64, description="test windows that names are hidden in, evenly spread")
    truncated_contexts: Counts = Field(
        (8, 16, 32, 64, 128), description="last tokens that a model sees where its context is cut short"
    )
    truncated_windows: Count = Field(64, description="test windows whose tokens are predicted from cut contexts")

    @model_validator(mode="after")
    def _check_past(self) -> Self:
        if len(self.needle_names) < 2:
            raise ValueError(f"needle_names is {list(self.needle_names)}, but a choice is between two: give more names")
        usual = usual_values(self, "truncated_contexts")
        shortest = min(self.truncated_contexts)
        beyond = [each for each in self.truncated_contexts if each >= self.seq_length and each not in usual]
        if beyond or (shortest >= self.seq_length and shortest > min(usual)):
            raise ValueError(
                f"truncated_contexts is {list(self.truncated_contexts)}, but a context is cut short where it has fewer "
                f"tokens than a window, of seq_length ({self.seq_length}): give shorter ones, or a larger seq_length"
            )
        return self

    def check_windows(self, train: int | None, test: int | None) -> None:
        """Refuse to ask in more windows than there are."""
        for name in ("needle_windows", "truncated_windows"):
            self.refuse_more(name, test, "test windows")


class RetrofitNotebook(CountedWindows):
    """Notebook 12: a trained model converted to a smaller cache, and what each way loses."""

    notebook = "12_retrofit"

    retrofits: ArmNames = Field(description="what the trained arm becomes: mla, mqa or cla[@setting value,...] each")
    calibration_windows: Count = Field(64, description="windows of which the covariance of inputs is taken")
    healing_tokens: Budgets = Field(
        (0,), description="tokens of training after the conversion, a retrofit for each; 0: none"
    )
    healing_seeds: Seeds = Field((0,), description="of healing and of the random control")
    llama: Path | None = Field(
        None, description="a GGUF file or folder of a Llama to convert too; None: SmolLM2, where its package is"
    )
    llama_retrofits: ArmNames | None = Field(None, description="what that one becomes; None: it is left out")
    llama_windows: Count = Field(16, description="windows of 512 tokens that it is scored on")
    llama_passages: Count = Field(16, description="passages that are repeated at each distance for it")
    llama_calibration_file: Path | None = Field(
        None, description="a .txt or .jsonl file to calibrate it on; None: the text of the parent"
    )
    llama_scored_file: Path | None = Field(None, description="a .txt or .jsonl file to score it on, with the one above")

    @model_validator(mode="after")
    def _check_retrofits(self) -> Self:
        read = [self.read_retrofit(text) for text in self.retrofits]
        for number, one in enumerate(read):
            if one in read[:number]:
                first = self.retrofits[read.index(one)]
                raise ValueError(f"retrofits {first!r} and {self.retrofits[number]!r} are the same: leave one out")
        if len(self.healing_seeds) > 1 and max(self.healing_tokens) == 0:
            raise ValueError(
                f"healing_seeds is {list(self.healing_seeds)}, but nothing is healed, so that only the first would be "
                "read: give healing_tokens, or one seed"
            )
        return self

    @model_validator(mode="after")
    def _check_llama(self) -> Self:
        for text in self.llama_retrofits or ():
            self._read_llama_retrofit(text)
        if (self.llama_calibration_file is None) != (self.llama_scored_file is None):
            raise ValueError("llama_calibration_file and llama_scored_file go together: give both, or none")
        of_llama = (name for name in type(self).model_fields if name.startswith("llama"))
        unread = [name for name in of_llama if getattr(self, name) != self._default(name)]
        if unread and self.llama_retrofits is None:
            raise ValueError(
                f"{unread[0]} is given, but no Llama is converted: say what it becomes with llama_retrofits, or leave "
                f"{unread[0]} out"
            )
        return self

    def check_windows(self, train: int | None, test: int | None) -> None:
        """Refuse retrofits that ask for more training text than there is, or for so little that nothing is healed."""
        if train is not None:
            for text in self.retrofits:
                for tokens in self.healing_tokens:
                    try:
                        self.read_retrofit(text, tokens).refuse_amounts(train, self.seq_length)
                    except ValueError as error:
                        raise ValueError(f"retrofit {text!r}: {error}") from error

    @staticmethod
    def _read_llama_retrofit(text: str) -> None:
        """Refuse what no Llama can become, whose windows are the same in every retrofit, and which is not healed."""
        names = {item.partition("=")[0].strip() for item in text.partition("@")[2].split(",")}
        idle = sorted(names & {*RetrofitParameters.OF_NOTEBOOK, *RetrofitParameters.OF_HEALING})
        if idle:
            raise ValueError(
                f"retrofit {text!r} sets {idle[0]}, but a Llama is always calibrated on as much text, and not healed: "
                "leave it out"
            )
        RetrofitParameters.parse(text)

    def read_retrofit(self, text: str, healing_tokens: int | None = None) -> RetrofitParameters:
        """Read one of ``retrofits``; ValueError for what none can be.

        Parameters
        ----------
        text
            The retrofit, as it is written.
        healing_tokens
            One of the budgets; the largest where omitted. What is said of healing is left out where it is 0.
        """
        largest = max(self.healing_tokens)
        read = RetrofitParameters.parse(text, calibration_windows=self.calibration_windows, healing_tokens=largest)
        if healing_tokens == 0:
            unread = RetrofitParameters.OF_HEALING | {"healing_tokens"}
            return RetrofitParameters(**read.model_dump(exclude=set(unread), exclude_unset=True))
        return read if healing_tokens is None else read.model_copy(update={"healing_tokens": healing_tokens})


class Claims(RunParameters):
    """Notebook 13: what was claimed before, and what became of it."""

    notebook = "13_claims"


class Leaderboard(LeaderboardFilters, RunParameters):
    """Notebook 14: every record there is, compared where budgets are equal."""

    notebook = "14_leaderboard"


NOTEBOOKS: dict[str, type[RunParameters]] = {
    kind.notebook: kind
    for kind in (
        Overview,
        ProjectionTraining,
        MainTraining,
        CausalMasks,
        PositionEncodings,
        ReversalCurse,
        LatentAttention,
        ContextPythia,
        ContextKV,
        Cascade,
        KeyAttention,
        Recall,
        RetrofitNotebook,
        Claims,
        Leaderboard,
    )
}

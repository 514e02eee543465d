"""The types of parameters: what they are read from, and which values they take."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from newllm.config.benchmarks import Benchmark
from newllm.config.values import ValueFormatError, read_number, read_scalar, read_value

LONGEST_WINDOW = 2048  # positions a Pythia model is defined for
LONGEST_SEQUENCE = 131_072  # tokens that are computed one beside the other, or kept in a cache that is measured


def _number(value: Any) -> Any:
    """Refuse booleans, which Python counts as numbers, and read ``"1e-4"``, as papermill passes it."""
    if isinstance(value, bool):
        raise ValueError("it must be a number")
    if isinstance(value, str):
        try:
            return read_number(value)
        except ValueFormatError:
            raise ValueError("it must be a number, such as 3, 0.5 or 1e-4") from None
    return value


def _list(value: Any) -> Any:
    """Read ``"[0, 1]"``, as papermill passes lists given on the command line, ``"0, 1"``, and one item alone."""
    if isinstance(value, str):
        try:
            value = read_value(value if value.lstrip().startswith("[") else f"[{value}]")
        except ValueFormatError as error:
            raise ValueError(f"it must be a list such as [a, b]: {error}") from None
    return [value] if isinstance(value, int | float) else value


def _arm_names(value: Any) -> Any:
    """Put the settings of an arm together again, which commas part as they do arms: ``[mla@kv_dim=8,position=rope]``.

    No arm is written ``name=value``, so that is a setting of the arm before it.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        return value
    arms: list[str] = []
    for item in value:
        if arms and re.match(r"\w+\s*=", item):
            arms[-1] += f",{item}"
        else:
            arms.append(item)
    return arms


def _flag(value: Any) -> Any:
    """Read ``"true"`` and ``"false"``, as papermill and the command line pass them, and none of their many cousins."""
    value = read_scalar(value) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


def _or_word(word: str, number: Any) -> BeforeValidator:
    """Read a number, or the word that stands for something else."""

    def read(value: Any) -> Any:
        if value == word:
            return value
        try:
            return TypeAdapter(number).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{error.errors()[0]['msg'].removeprefix('Value error, ')}, or {word}") from None

    return BeforeValidator(read)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("no item may be given twice")
    return values


def _benchmarks(values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what is no benchmark, and one that is named with two files."""
    names = [Benchmark.parse(value).name for value in values]
    if len(set(names)) < len(names):
        raise ValueError("no benchmark may be given twice")
    return values


SizeName = Literal["tiny", "mini", "70m", "160m", "410m", "1b", "1.4b", "smollm2-135m", "smollm2-360m", "smollm2-1.7b"]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_number)]
Count = Annotated[Whole, Field(gt=0)]
# A step of AdamW moves a weight by about the rate, and weights are small: above one it is a mistyped power of ten.
Rate = Annotated[Real, Field(gt=0, le=1)]
WindowCount = Annotated[Count | Literal["all"], _or_word("all", Count)]
ADAMW: Final = "adamw"
MatrixRate = Annotated[Rate | Literal["adamw"], _or_word(ADAMW, Rate)]
LARGEST_SEED = 2**32 - 1
Seed = Annotated[Whole, Field(ge=0, le=LARGEST_SEED)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Names = Annotated[tuple[str, ...], BeforeValidator(_list), AfterValidator(_distinct), Field(min_length=1)]

Texts = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_list),
    AfterValidator(_distinct),
    Field(min_length=1),
]

# The validator that is written last is asked first.
ArmNames = Annotated[
    tuple[str, ...], BeforeValidator(_arm_names), BeforeValidator(_list), AfterValidator(_distinct), Field(min_length=1)
]

BenchmarkNames = Annotated[
    tuple[str, ...], BeforeValidator(_list), AfterValidator(_benchmarks), AfterValidator(_distinct), Field(min_length=1)
]

Counts = Annotated[tuple[Count, ...], BeforeValidator(_list), AfterValidator(_distinct), Field(min_length=1)]

# Of which none is one, too.
Budgets = Annotated[
    tuple[Annotated[Whole, Field(ge=0)], ...],
    BeforeValidator(_list),
    AfterValidator(_distinct),
    Field(min_length=1),
]

Lengths = Annotated[
    tuple[Annotated[Count, Field(le=LONGEST_SEQUENCE)], ...],
    BeforeValidator(_list),
    AfterValidator(_distinct),
    Field(min_length=1),
]

# Of a recurrence and its training: as it is, or with one of its rules broken.
VariantNames = Annotated[
    tuple[Literal["as it is", "without embed_norm", "xavier", "kaiming"], ...],
    BeforeValidator(_list),
    AfterValidator(_distinct),
    Field(min_length=1),
]

Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_list), AfterValidator(_distinct), Field(min_length=1)]

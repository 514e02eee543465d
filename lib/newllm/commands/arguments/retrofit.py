"""What ``newllm retrofit`` takes."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from newllm.commands.arguments.assignments import add_assignments
from newllm.commands.shared import check_outputs, read_assignments
from newllm.config.errors import ParameterError
from newllm.config.fields import LARGEST_SEED
from newllm.config.retrofit import RetrofitFiles, RetrofitParameters
from newllm.files import why_no_model

SUMMARY = "convert a trained model to one that keeps a smaller cache, and report what each stage loses"

EXAMPLES = """\
newllm retrofit outputs/02_main_training/cpu-1234abcd/pythia-seed0 --to mla -p keep=0.25
newllm retrofit my_llama --to mla -p rotary_pairs=8 -p keep=0.5 -p source=text -p text_files=notes.txt -p seq_length=256
newllm retrofit my_llama --to mla -p keep=0.5 -p calibration_file=wiki.valid.txt -p scored_file=wiki.test.txt
newllm retrofit EleutherAI/pythia-70m --to mqa -p healing_tokens=500000 -p seq_length=512"""

WHEN_INTERRUPTED = "the same command goes on from the last score or checkpoint of healing"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "model",
        help="the folder of a run's trial or a saved model, a GGUF file, or a hub id: Pythia, Llama, SmolLM2 or Qwen2",
    )
    parser.add_argument("--to", dest="method", required=True, choices=("mla", "mqa", "cla"), help="what it becomes")
    add_assignments(parser, "a setting of the retrofit, of its text or of what is measured (see below)")
    parser.add_argument("--seed", type=int, default=0, help="of healing and of the random control (0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (the accelerator, if there is one)")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where the model and the report go (outputs/retrofit)"
    )
    parser.add_argument_group(
        "settings that -p takes",
        "\n".join(_described(RetrofitParameters, RetrofitFiles))
        + "\nand, of a source's text and of what is measured, those of notebooks: source, text_files, samples, "
        "test_samples,\nprompts, repeated_passages, ... (params/cpu/02_main_training.yaml)",
    )


def _described(*groups: type[BaseModel]) -> Iterator[str]:
    """Write a line for each setting: its name and usual value, and what it is."""
    fields = {name: field for group in groups for name, field in group.model_fields.items() if name != "method"}
    for name, field in fields.items():
        usual = "" if field.is_required() else f"={'null' if field.default is None else field.default}"
        yield f"{name + usual:<32} {field.description}"


def check(options: argparse.Namespace) -> None:
    """Refuse a model that is nowhere, assignments of another form, and windows of no file."""
    reason = why_no_model(options.model)
    if reason is not None:
        raise ParameterError(reason)
    if not 0 <= options.seed <= LARGEST_SEED:
        raise ParameterError(f"--seed {options.seed} must be from 0 to {LARGEST_SEED}.")
    said = {name for name, value in read_assignments(options.parameters).items() if value is not None}
    if "scored_windows" in said and not said & {"scored_file", "calibration_file"}:
        raise ParameterError("scored_windows does nothing without scored_file: give that, or test_samples instead.")
    check_outputs(options.output)

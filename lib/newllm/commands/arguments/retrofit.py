"""What ``newllm retrofit`` takes."""

import argparse
from pathlib import Path

from newllm.commands.arguments.assignments import add_assignments
from newllm.commands.shared import read_assignments
from newllm.config.errors import ParameterError
from newllm.files import why_no_model

SUMMARY = "convert a trained model to one that keeps a smaller cache, and report what each stage loses"

EXAMPLES = """\
newllm retrofit outputs/02_main_training/cpu-1234abcd/pythia-seed0 --to mla -p keep=0.25
newllm retrofit my_llama --to mla -p rotary_pairs=8 -p keep=0.5 -p source=text -p text_files=notes.txt -p seq_length=256
newllm retrofit my_llama --to mla -p keep=0.5 -p calibration_file=wiki.valid.txt -p scored_file=wiki.test.txt
newllm retrofit EleutherAI/pythia-70m --to mqa -p healing_tokens=500000 -p seq_length=512"""

WHEN_INTERRUPTED = "the same command goes on from the last checkpoint of healing"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "model",
        help="the folder of a run's trial or a saved model, a GGUF file, or a hub id: Pythia, Llama, SmolLM2 or Qwen2",
    )
    parser.add_argument("--to", dest="method", required=True, choices=("mla", "mqa", "cla"), help="what it becomes")
    add_assignments(parser, "a setting of the retrofit or of its text (seq_length, calibration_file, scored_file, ...)")
    parser.add_argument("--seed", type=int, default=0, help="of healing and of the random control (0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (the accelerator, if there is one)")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where the model and the report go (outputs/retrofit)"
    )


def check(options: argparse.Namespace) -> None:
    """Refuse a model that is nowhere, and assignments of another form."""
    reason = why_no_model(options.model)
    if reason is not None:
        raise ParameterError(reason)
    if options.seed < 0:
        raise ParameterError(f"--seed {options.seed} must be 0 or more.")
    read_assignments(options.parameters)

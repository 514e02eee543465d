"""What ``newllm start`` takes."""

import argparse

from newllm.commands.arguments.assignments import add_assignments
from newllm.commands.arguments.run import check_planned
from newllm.config.profiles import profiles

SUMMARY = "train three small models in minutes, beside what is published, on a page that explains it"

EXAMPLES = """\
newllm start
newllm start -p "arms=[pythia, mla@kv_dim=32]" -p samples=400"""

WHEN_INTERRUPTED = "what was finished is kept; the same command goes on from the last checkpoint"

NOTEBOOK = "02_main_training"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--profile", default="quick", choices=profiles(), help="whose parameters (quick)")
    add_assignments(parser, "replace a parameter of notebook 02")
    parser.add_argument("--rerun", action="store_true", help="delete what is finished and run it again")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="write the page, and do not open it")
    parser.set_defaults(notebooks=[NOTEBOOK])


def check(options: argparse.Namespace) -> None:
    """Refuse unknown parameters and models, and impossible values."""
    check_planned(options)

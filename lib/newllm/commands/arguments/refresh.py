"""What ``newllm refresh`` takes."""

import argparse

from newllm.commands.shared import full_name

SUMMARY = "execute the committed notebooks in place, with pictures"

EXAMPLES = """\
newllm refresh 02 14"""

WHEN_INTERRUPTED = "notebooks that were done are written, the others are as they were"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("notebooks", nargs="*", help="numbers, names or paths; all of them if none")


def check(options: argparse.Namespace) -> None:
    """Refuse unknown notebooks."""
    for name in options.notebooks:
        full_name(name)

"""What ``newllm leaderboard`` takes."""

import argparse
from pathlib import Path

from pydantic import ValidationError

from newllm.commands.shared import check_outputs, read_assignments
from newllm.config.errors import ParameterError, explain
from newllm.config.groups import LeaderboardFilters

SUMMARY = "show every record there is, in a table, a page and a picture"

EXAMPLES = """\
newllm leaderboard
newllm leaderboard outputs/reference --filter min_seeds=3 --filter methods=pythia,mla"""

WHEN_INTERRUPTED = "nothing is lost; run the same command again"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("folder", nargs="?", type=Path, help="where to look; the outputs and the reference if none")
    parser.add_argument("--output", type=Path, help="the page to write (leaderboard.html among the outputs)")
    parser.add_argument(
        "--filter",
        dest="filters",
        action="append",
        default=[],
        metavar="key=value",
        help=f"one of {', '.join(LeaderboardFilters.model_fields)}, such as min_seeds=3; repeatable",
    )


def check(options: argparse.Namespace) -> None:
    """Refuse filters that there are not, a folder that is none and a page of another type."""
    read_filters(options.filters)
    if options.folder is not None and not options.folder.is_dir():
        raise ParameterError(f"{options.folder} is not a folder.")
    if options.output is not None and options.output.suffix != ".html":
        raise ParameterError(f"--output is {options.output}, but it must end with .html.")
    check_outputs(options.output and options.output.parent)


def read_filters(assignments: list[str]) -> LeaderboardFilters:
    """Read filters given as ``key=value``.

    Raises
    ------
    ParameterError
        If one is unknown or has an impossible value.
    """
    given = {key: value for key, value in read_assignments(assignments, "--filter").items() if value is not None}
    try:
        return LeaderboardFilters.model_validate(given)
    except ValidationError as error:
        raise ParameterError(explain(error, LeaderboardFilters, "the leaderboard", given, "--filter")) from None

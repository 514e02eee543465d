"""The argument ``-p key=value``, as every command that has it takes it."""

import argparse


def add_assignments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``-p key=value``, which may be given again and again.

    Parameters
    ----------
    parser
        Of the command.
    what
        What it replaces or sets.
    """
    parser.add_argument(
        "-p", dest="parameters", action="append", default=[], metavar="key=value", help=f"{what}; repeatable"
    )

"""``newllm leaderboard``: every record in one table, one page and one picture."""

import argparse
import logging
from pathlib import Path

import pandas as pd

from newllm.commands.arguments.leaderboard import read_filters
from newllm.commands.offered import as_called_here
from newllm.commands.terminal_table import terminal_width
from newllm.config.errors import ParameterError
from newllm.files import outputs_folder, write_atomically
from newllm.models.registry import BASELINE
from newllm.notebook.tables import show_arms
from newllm.publication.leaderboard import SPEED, Board, default_folders, read_board
from newllm.publication.leaderboard_page import render
from newllm.runs.pictures import write_pictures_where_possible
from newllm.wording import count

logger = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> int:
    """Do ``newllm leaderboard``: read all records and write the page, the picture and the table."""
    target = options.output or outputs_folder() / "leaderboard.html"
    try:
        filters = read_filters(options.filters)
        board = read_board([options.folder] if options.folder else default_folders())
        if not board.budgets and board.set_apart.empty:
            raise ParameterError(
                f"there is no record: run a comparison first, such as {as_called_here('newllm run 02')}"
            )
        board = board.filtered(filters) if board.budgets else board
    except ParameterError as error:
        logger.error("%s", error)
        return 2
    write_atomically(target, render(board, target.resolve()))
    draw(board, target.with_suffix(".png"))
    show(board)
    logger.info("%s", target)
    return 0


def draw(board: Board, path: Path) -> None:
    """Draw the picture of the first budget."""
    if board.budgets:
        write_pictures_where_possible([board.budgets[0].draw()], [path], scale=2)


def show(board: Board) -> None:
    """Log the table of the first budget, and what is set apart."""
    for budget in board.budgets[:1]:
        rows = pd.concat([budget.summary, budget.floor], ignore_index=True)
        table = show_arms(rows, BASELINE, more=[SPEED]).text(terminal_width())
        logger.info("\n%s (budget %s)\n%s\n", budget.title, budget.name, table)
        for other, differences in list(zip(board.budgets, board.differences(), strict=True))[1:]:
            logger.info("Other budget %s, %s: %s", other.name, count(len(other.summary), "arm"), differences)
    for _, row in board.set_apart.iterrows():
        logger.info("Set apart: %s: %s", row["file"], row["reason"])

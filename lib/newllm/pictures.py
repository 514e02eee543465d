"""Figures as PNG files, in the size that their layout asks for."""

import logging
from collections.abc import Sequence
from pathlib import Path

import plotly.io
from plotly import graph_objects

logger = logging.getLogger(__name__)


def write_pictures(figures: Sequence[graph_objects.Figure], paths: Sequence[Path], scale: float = 1) -> None:
    """Draw figures, all with one start of the browser, which takes seconds.

    Parameters
    ----------
    figures
        What to draw.
    paths
        The PNG file of each.
    scale
        Pixels of the file for a pixel of the layout.

    Raises
    ------
    RuntimeError, ValueError
        Where kaleido, or Chrome or Chromium, is not there or does not start.
    """
    plotly.io.write_images(
        list(figures),
        list(paths),
        # Unlike write_image, write_images does not look into the layout.
        width=[figure.layout.width for figure in figures],
        height=[figure.layout.height for figure in figures],
        scale=scale,
    )


def write_pictures_where_possible(
    figures: Sequence[graph_objects.Figure], paths: Sequence[Path], scale: float = 1
) -> None:
    """Draw figures as `write_pictures` does; where there is no browser to draw them, log that instead.

    Parameters
    ----------
    figures, paths, scale
        As for `write_pictures`.
    """
    try:
        write_pictures(figures, paths, scale)
    except (RuntimeError, ValueError) as error:  # kaleido, or the browser, is not there or does not start
        reason = " ".join(str(error).split())
        logger.info("No PNG is drawn, which needs kaleido and Chrome or Chromium: %s", reason)

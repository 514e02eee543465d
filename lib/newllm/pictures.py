"""Figures as PNG files, in the size that their layout asks for."""

from collections.abc import Sequence
from pathlib import Path

import plotly.io
from plotly import graph_objects


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

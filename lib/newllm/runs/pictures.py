"""Figures as files: an interactive page, its data, and a PNG in the size that its layout asks for."""

import logging
from collections.abc import Sequence
from pathlib import Path

import plotly.io
import plotly.offline
from plotly import graph_objects

from newllm.files import atomic_file, write_atomically

logger = logging.getLogger(__name__)

FIGURES_FOLDER = "figures"
PICTURE_WIDTH = 820  # pixels of a PNG of a figure that has no width of its own: on a page it is as wide as its place


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
        width=[figure.layout.width or PICTURE_WIDTH for figure in figures],
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


def save_figure(figure: graph_objects.Figure, folder: Path, name: str) -> list[Path]:
    """Save a figure for later: ``<name>.html``, an interactive page, and ``<name>.json``, its data.

    The page works offline: plotly's script lies beside it, once for all figures of a folder.

    Parameters
    ----------
    figure
        What to save.
    folder
        Where to; it is created.
    name
        File name without its ending.

    Returns
    -------
    list of Path
        What was written, and the picture of an earlier version, which is deleted.
    """
    picture, page, data, script = (
        folder / file for file in (f"{name}.png", f"{name}.html", f"{name}.json", "plotly.min.js")
    )
    if not script.is_file():
        write_atomically(script, plotly.offline.get_plotlyjs())
    picture.unlink(missing_ok=True)
    with atomic_file(page) as temporary:
        # "directory" points to plotly.min.js next to the page.
        figure.write_html(temporary, include_plotlyjs="directory")
    write_atomically(data, figure.to_json())
    return [picture, page, data, script]


def draw_pictures(folder: Path) -> None:
    """Draw every saved figure under a folder that has no PNG yet, where kaleido and Chrome or Chromium can.

    It is done once for all, at the end of a run: starting the browser takes seconds, a picture next to nothing.
    """
    saved = [path for path in sorted(folder.rglob(f"{FIGURES_FOLDER}/*.json")) if not path.with_suffix(".png").exists()]
    if not saved:
        return
    figures = [plotly.io.from_json(path.read_text(encoding="utf-8")) for path in saved]
    write_pictures_where_possible(figures, [path.with_suffix(".png") for path in saved], scale=2)

"""Figures as files: an interactive page, its data, and a PNG in the size that its layout asks for."""

import contextlib
import io
import logging
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import plotly
import plotly.io
import plotly.offline
import psutil
from kaleido.scopes.plotly import PlotlyScope
from PIL import Image
from plotly import graph_objects

from newllm.files import atomic_file, write_atomically

logger = logging.getLogger(__name__)

FIGURES_FOLDER = "figures"
# Pixels of a PNG of a figure that has no width of its own, which on a page is as wide as its place: a narrow page shows
# it whole, and JupyterLab shows it in the place of the figure until a notebook is run.
PICTURE_WIDTH = 580

# For one figure, which takes a second; a busy machine may need many times that.
LONGEST_SECONDS = 90.0
ATTEMPTS = 3


def write_pictures(figures: Sequence[graph_objects.Figure], paths: Sequence[Path], scale: float = 1) -> None:
    """Draw figures, all with one start of the renderer, which takes seconds.

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
    ValueError
        Where the renderer does not start, cannot draw a figure, or `ATTEMPTS` times does not answer in
        `LONGEST_SECONDS`.
    """
    with _renderer() as renderer:
        for figure, path in zip(figures, paths, strict=True):
            picture = _png(renderer, figure, scale)
            # 256 colours, more than an eye tells apart in such a picture, take a quarter of the bytes.
            with Image.open(io.BytesIO(picture)) as full, atomic_file(path) as temporary:
                full.quantize(256, method=Image.Quantize.FASTOCTREE).save(temporary, format="png", optimize=True)


def _png(renderer: PlotlyScope, figure: graph_objects.Figure, scale: float) -> bytes:
    """Draw a figure; a renderer that hangs, as it now and then does where a busy machine starts it, starts anew."""

    def draw() -> bytes:
        # A figure without a width would get the renderer's own.
        width = figure.layout.width or PICTURE_WIDTH
        return bytes(renderer.transform(figure, format="png", width=width, scale=scale))

    for _ in range(ATTEMPTS - 1):
        with _bounded(renderer) as hung:
            try:
                return draw()
            except ValueError:
                if not hung.is_set():
                    raise
    with _bounded(renderer):
        return draw()


@contextmanager
def _bounded(renderer: PlotlyScope) -> Iterator[threading.Event]:
    """End a renderer that does not answer, which makes its call fail, and set the event that is given."""
    hung = threading.Event()
    timer = threading.Timer(LONGEST_SECONDS, _end, [renderer, hung])
    timer.start()
    try:
        yield hung
    finally:
        timer.cancel()


def _end(renderer: PlotlyScope, hung: threading.Event) -> None:
    hung.set()
    if renderer._proc is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        # The program is a child of its start script, which would leave it running.
        script = psutil.Process(renderer._proc.pid)
        for process in (*script.children(recursive=True), script):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@contextmanager
def _renderer() -> Iterator[PlotlyScope]:
    """Start the renderer that kaleido 0.2 brings; later kaleidos draw only where a browser is installed."""
    with tempfile.TemporaryDirectory() as folder:
        # Links without blanks in their paths, which its start script cannot read.
        program, script = Path(folder) / "kaleido", Path(folder) / "plotly.min.js"
        program.symlink_to(Path(PlotlyScope.executable_path()).parent)
        script.symlink_to(Path(plotly.__file__).parent / "package_data" / "plotly.min.js")
        renderer = PlotlyScope(plotlyjs=str(script), mathjax=False)
        renderer.executable_path = lambda: str(program / "kaleido")
        try:
            yield renderer
        finally:
            renderer._shutdown_kaleido()  # its thread holds the object, which would end the process when deleted


def write_pictures_where_possible(
    figures: Sequence[graph_objects.Figure], paths: Sequence[Path], scale: float = 1
) -> None:
    """Draw figures as `write_pictures` does; where that fails, log it: no run is lost for a picture.

    Parameters
    ----------
    figures, paths, scale
        As for `write_pictures`.
    """
    try:
        write_pictures(figures, paths, scale)
    except ValueError as error:
        logger.warning("No PNG is drawn: %s", " ".join(str(error).split()))


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
    """Draw every saved figure under a folder that has no PNG yet.

    It is done once for all, at the end of a run: the renderer takes seconds to start.
    """
    saved = [path for path in sorted(folder.rglob(f"{FIGURES_FOLDER}/*.json")) if not path.with_suffix(".png").exists()]
    if not saved:
        return
    figures = [plotly.io.from_json(path.read_text(encoding="utf-8")) for path in saved]
    write_pictures_where_possible(figures, [path.with_suffix(".png") for path in saved], scale=2)

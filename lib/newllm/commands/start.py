"""``newllm start``: three models trained in minutes, and one page that shows how, beside what is published.

The page is there before anything heavy is imported; what follows is in `newllm.commands.start_run`.
"""

import argparse
import importlib
import logging
import os
import sys
import webbrowser
from pathlib import Path

from newllm.commands.page_view import PageView
from newllm.config.errors import ParameterError
from newllm.files import outputs_folder, reference_folder, write_atomically
from newllm.publication.start_page import StartPage

logger = logging.getLogger(__name__)

PAGE = "start.html"
PUBLISHED_PICTURE = "quality_against_bytes.png"


def main(options: argparse.Namespace) -> int:
    """Do ``newllm start``: write the page, train the models and write what came of them."""
    target = outputs_folder() / PAGE
    before = target.read_text(encoding="utf-8") if target.is_file() else None
    begun = StartPage("Getting ready: the libraries are loaded, then the text.", first_picture=published_picture())
    view = PageView(begun, target)
    logger.info("Everything is shown on this page, from now on: %s", target)
    if options.browser and has_browser():
        webbrowser.open(target.as_uri())
    try:
        # Only now, because it takes seconds.
        work = importlib.import_module("newllm.commands.start_run")
        status: int = work.run(options, view)
    except ParameterError as error:
        if before is None:
            view.update(state=f"Nothing was run: {error}", is_done=True)
        else:
            write_atomically(target, before)
        raise
    except KeyboardInterrupt:
        view.interrupt()
        raise
    return status


def published_picture() -> Path:
    """Return where the published picture is."""
    return reference_folder() / PUBLISHED_PICTURE


def has_browser() -> bool:
    """Tell whether somebody sits in front of a graphical browser; one in a terminal would take the terminal away."""
    is_graphical = sys.platform in {"darwin", "win32"} or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return is_graphical and sys.stdout.isatty()

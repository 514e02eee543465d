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

from newllm.files import outputs_folder, reference_folder, write_atomically
from newllm.publication.start_page import StartPage, render

logger = logging.getLogger(__name__)

PAGE = "start.html"
PUBLISHED_PICTURE = "quality_against_bytes.png"


def main(options: argparse.Namespace) -> int:
    """Do ``newllm start``: write the page, train the models and write what came of them."""
    target = outputs_folder() / PAGE
    begun = StartPage("Getting ready: the libraries are loaded, then the text.", first_picture=published_picture())
    write_atomically(target, render(begun))
    logger.info("Everything is shown on this page, from now on: %s", target)
    if options.browser and has_browser():
        webbrowser.open(target.as_uri())
    # Only now, because it takes seconds.
    work = importlib.import_module("newllm.commands.start_run")
    status: int = work.run(options, target)
    return status


def published_picture() -> Path:
    """Return where the published picture is."""
    return reference_folder() / PUBLISHED_PICTURE


def has_browser() -> bool:
    """Tell whether somebody sits in front of a graphical browser; one in a terminal would take the terminal away."""
    is_graphical = sys.platform in {"darwin", "win32"} or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return is_graphical and sys.stdout.isatty()

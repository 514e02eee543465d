"""A notebook as its reader meets it: JupyterLab in a browser, Run All, a hand on a slider, a dark and narrow page.

It takes a browser, a server and a kernel, so that it is a file of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

from newllm.files import project_root
from newllm.notebook.kernel import kernel_of_this_python

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")

NOTEBOOK = "03_causal_masks.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Some seconds and some twenty seconds on an idle machine; but other tests may be running on it.
LAB_SECONDS = 300
RUN_ALL_SECONDS = 400
# A slider and its figure at once: what is outside the window may not be drawn.
WINDOW = {"width": 1300, "height": 1600}
NARROW: "ViewportSize" = {"width": 700, "height": 1600}
DARK = "JupyterLab Dark"
# What letters of their size need (WCAG 2.2, 1.4.11).
LEAST_CONTRAST = 3.0
# Every cell in the page, whether seen or not; no news from the network.
LAB_SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}

# What Python's report of an error begins with, in the output of a cell.
FAILED = """() => [...document.querySelectorAll(".jp-OutputArea-output")].map(output => output.innerText).filter(
    text => text.includes("Traceback (most recent call last)"))"""
# All cells have run, or one of them has failed and no other will.
EXECUTED = rf"""count => {{
    const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
    // A cell whose source is folded away shows no number; the saved file says below that it has run.
    const ran = prompt => prompt.closest(".jp-Placeholder") !== null || /\[\d+\]/.test(prompt.innerText);
    const done = prompts.length === count && prompts.every(ran);
    return done || ({FAILED})().length > 0;
}}"""
# Lowest number that the figure below a slider shows: the bias of the last query for the first key.
LOWEST = """() => {
    const drawn = document.querySelector(".jupyter-widgets .js-plotly-plot");
    if (!drawn || !drawn._fullData || !drawn._fullData.length) return null;
    return Math.min(...Array.from(drawn._fullData[0].z, row => Array.from(row)).flat().filter(Number.isFinite));
}"""
# Outputs that the page cuts off: figures that are wider than their place, and what else nobody can scroll there.
CUT_OFF = """() => [...document.querySelectorAll(".jp-OutputArea-output")].filter(output => {
    const isWider = output.scrollWidth > output.clientWidth + 1;
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(output).overflowX);
    return isWider && (output.querySelector(".js-plotly-plot") !== null || !scrolls);
}).length"""
FITS = f"""() => {{
    const drawn = document.querySelectorAll(".js-plotly-plot").length;
    return drawn > 0 && ({CUT_OFF})() === 0;
}}"""
CHANGE_THEME = "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })"
IS_DARK = "() => document.body.dataset.jpThemeLight === 'false'"
# Colours of a figure's paper and letters, and of the page below it.
COLOURS = """() => {
    const figure = document.querySelector(".js-plotly-plot");
    const page = getComputedStyle(document.querySelector(".jp-Notebook")).backgroundColor;
    const paper = getComputedStyle(figure.querySelector(".main-svg")).backgroundColor;
    return [paper, getComputedStyle(figure.querySelector("text")).fill, page];
}"""
REDRAWN = f"before => {{ const now = ({LOWEST})(); return now !== null && now !== before; }}"


@dataclass(frozen=True)
class Lab:
    """A running server, and the notebook that it serves."""

    url: str
    notebook: Path


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """JupyterLab over a copy of the notebook without outputs, with no settings of the user's."""
    notebook = nbformat.read(project_root() / "notebooks" / NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    place = tmp_path / "notebooks"
    place.mkdir()
    nbformat.write(notebook, place / NOTEBOOK)
    settings = tmp_path / "settings"
    for name, values in LAB_SETTINGS.items():
        file = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    folders = {
        name: str(tmp_path / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    }
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    for name, value in {**folders, "JUPYTERLAB_SETTINGS_DIR": str(settings)}.items():
        monkeypatch.setenv(name, value)
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=localhost"),
        "--LabApp.expose_app_in_browser=True",  # so that a command of it can be asked for by name
        *("--ServerApp.port=0", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={place}"),
    ]
    with kernel_of_this_python(), (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ))
        try:
            yield Lab(_address(server, Path(folders["JUPYTER_RUNTIME_DIR"]), tmp_path / "lab.log"), place / NOTEBOOK)
        finally:
            # The server ends its kernels too.
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _address(server: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    """Wait until the server says where it is."""
    for _ in range(LAB_SECONDS):
        for file in runtime.glob("jpserver-*.json"):
            said = json.loads(file.read_text(encoding="utf-8"))
            return f"{said['url']}lab/tree/{NOTEBOOK}?token={said['token']}"
        if server.poll() is not None:
            break
        time.sleep(1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')}")


@pytest.fixture
def page() -> Iterator["Page"]:
    """A page of a headless browser."""
    browser_path = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser_path is None:
        pytest.skip("needs Chrome or Chromium")
    # Without the browser's own connections: nothing here leaves the machine.
    quiet = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox", *quiet])
        try:
            page = browser.new_page(viewport=WINDOW)
            page.set_default_timeout(LAB_SECONDS * 1000)
            yield page
        finally:
            browser.close()


def test_run_all_and_a_slider(lab: Lab, page: "Page") -> None:
    """Every cell runs without an error, and the widget follows the keyboard, down to the figure that it draws."""
    page.goto(lab.url)
    page.locator(".jp-CodeCell").first.wait_for()
    page.get_by_text("| Idle").first.wait_for()  # without a kernel, Run All runs nothing, and says nothing
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    cells = [cell for cell in nbformat.read(lab.notebook, as_version=4).cells if cell.cell_type == "code"]
    page.wait_for_function(EXECUTED, arg=len(cells), timeout=RUN_ALL_SECONDS * 1000)
    assert page.evaluate(FAILED) == []

    handle = page.locator(".widget-slider .noUi-handle").first
    readout = page.locator(".widget-readout").first
    handle.scroll_into_view_if_needed()
    page.wait_for_function(REDRAWN, arg=None)
    shown, drawn = readout.inner_text(), page.evaluate(LOWEST)
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(REDRAWN, arg=drawn)
    assert float(readout.inner_text()) == 2 * float(shown), "one step of the slope is a factor of two"
    assert page.evaluate(LOWEST) == pytest.approx(2 * drawn), "and so is the bias"

    assert contrast_of_figures(page) >= LEAST_CONTRAST
    page.evaluate(CHANGE_THEME, DARK)
    page.wait_for_function(IS_DARK)
    assert contrast_of_figures(page) >= LEAST_CONTRAST
    page.set_viewport_size(NARROW)
    page.wait_for_function(FITS)

    page.keyboard.press("Control+s")
    page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")
    saved = [cell for cell in nbformat.read(lab.notebook, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in saved] == list(range(1, len(cells) + 1))
    assert not [output for cell in saved for output in cell.outputs if output.output_type == "error"]


def contrast_of_figures(page: "Page") -> float:
    """Return the contrast of a figure's letters with the page, which its paper must let through."""
    paper, ink, below = ([float(number) for number in re.findall(r"[\d.]+", one)] for one in page.evaluate(COLOURS))
    assert paper[3:] == [0.0], "the figure has a background of its own"
    lighter, darker = sorted((luminance(ink[:3]), luminance(below[:3])), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: Sequence[float]) -> float:
    """Return the relative luminance of red, green and blue, 0 to 255 (WCAG 2.2)."""
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (value / 255 for value in colour)
    ]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

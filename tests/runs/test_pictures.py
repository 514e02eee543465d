"""Pictures: drawn on a machine without a browser, of every kind of figure, wherever the packages lie."""

import logging
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from kaleido.scopes.plotly import PlotlyScope
from PIL import Image
from plotly import graph_objects

from newllm import figures
from newllm.figures.lines import lines
from newllm.figures.style import COLOURS, finish
from newllm.runs import pictures
from newllm.runs.pictures import (
    PICTURE_WIDTH,
    draw_pictures,
    save_figure,
    write_pictures,
    write_pictures_where_possible,
)


def size_of(picture):
    """Width and height in pixels."""
    with Image.open(picture) as drawn:
        return drawn.size


def colours_of(picture):
    """The opaque colours of a picture."""
    with Image.open(picture) as drawn:
        assert drawn.convert("RGBA").getpixel((0, 0))[3] == 0, "the page's own background is not seen through it"
        return [colour[:3] for _, colour in drawn.convert("RGBA").getcolors(1 << 16) if colour[3] > 250]


def is_among(colour, colours):
    """Whether one of the colours is taken for the other, written as #rrggbb."""
    wanted = bytes.fromhex(colour.removeprefix("#"))
    return min(max(abs(one - other) for one, other in zip(wanted, found, strict=True)) for found in colours) <= 24


def drawings():
    """A line, several lines, bars, and a heat map beside which stands a scale."""
    one = pd.DataFrame({"x": range(9), "y": [index**2 for index in range(9)], "name": "one"})
    several = pd.concat([one.assign(name=str(slope), y=slope * one["x"]) for slope in range(1, 7)])
    means = pd.DataFrame({"arm": ["a", "b", "b"], "loss": [4.0, 3.5, 3.6], "seed": [0, 0, 1]})
    return {
        "line": finish(lines(one, "x", "y", "name"), "A line", "x", "y"),
        "lines": finish(lines(several, "x", "y", "name"), "Several lines", "x", "y", log_x=True),
        "bars": figures.arms(means, "loss", "loss (nats)"),
        "heat map": figures.attention_biases({"past": [[0.0, float("-inf")], [-1.0, 0.0]]}),
    }


@pytest.fixture
def without_a_browser(tmp_path, monkeypatch):
    """A PATH with nothing on it but what a start script of the shell needs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(programs))
    assert shutil.which("chromium") is None


def test_every_kind_of_figure_is_drawn_without_a_browser(tmp_path, without_a_browser):
    for name, figure in drawings().items():
        save_figure(figure, tmp_path / "figures", name)
    draw_pictures(tmp_path)
    # The first and the last of viridis are those of the ends of a heat map's scale.
    expected = {"line": COLOURS[:1], "lines": COLOURS[:6], "bars": COLOURS[:2], "heat map": ("#440154", "#fde725")}
    for name, figure in drawings().items():
        picture = tmp_path / "figures" / f"{name}.png"
        assert size_of(picture) == (2 * PICTURE_WIDTH, 2 * figure.layout.height)
        assert [colour for colour in expected[name] if not is_among(colour, colours_of(picture))] == []


def test_the_packages_may_lie_in_a_folder_with_a_blank(tmp_path, monkeypatch):
    package = tmp_path / "my programs"
    package.symlink_to(Path(PlotlyScope.executable_path()).parent)
    monkeypatch.setattr(PlotlyScope, "executable_path", lambda: str(package / "kaleido"))
    sizes = [{"width": 300, "height": 200}, {"height": 200}]
    paths = [tmp_path / "with_a_width.png", tmp_path / "without.png"]
    write_pictures([graph_objects.Figure(layout=size) for size in sizes], paths)
    assert [size_of(path) for path in paths] == [(300, 200), (PICTURE_WIDTH, 200)]


def test_a_renderer_that_does_not_start_is_an_error_where_a_picture_is_needed_and_a_note_where_it_is_wanted(
    tmp_path, monkeypatch, caplog
):
    broken = tmp_path / "broken" / "kaleido"
    broken.parent.mkdir()
    broken.write_text("#!/bin/bash\necho no library >&2\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(PlotlyScope, "executable_path", lambda: str(broken))
    wanted = ([graph_objects.Figure()], [tmp_path / "figure.png"])
    with pytest.raises(ValueError, match="Failed to start"):
        write_pictures(*wanted)
    with caplog.at_level(logging.WARNING):
        write_pictures_where_possible(*wanted)
    assert "No PNG is drawn: Failed to start" in caplog.text


def test_a_folder_that_cannot_be_written_is_an_error_not_a_note(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_pictures_where_possible([graph_objects.Figure()], [tmp_path / "file" / "figure.png"])


@pytest.mark.parametrize("hangs", [1, 3])
def test_a_renderer_that_hangs_is_started_anew(monkeypatch, hangs):
    monkeypatch.setattr(pictures, "LONGEST_SECONDS", 0.1)
    started = []

    def transform(*_, **named):
        started.append(subprocess.Popen(["sleep", "600"] if len(started) < hangs else ["true"]))
        renderer._proc = started[-1]
        if renderer._proc.wait():
            raise ValueError("Failed to start")
        return b"a picture"

    renderer = SimpleNamespace(_proc=None, transform=transform)
    if hangs < pictures.ATTEMPTS:
        assert pictures._png(renderer, graph_objects.Figure(), 1) == b"a picture"
    else:
        with pytest.raises(ValueError, match="Failed to start"):
            pictures._png(renderer, graph_objects.Figure(), 1)
    assert len(started) == min(hangs + 1, pictures.ATTEMPTS)


def test_a_renderer_that_hangs_is_ended_with_its_program(monkeypatch):
    """The program holds the pipe open that its answer is awaited from, so that ending the script alone would not do."""
    monkeypatch.setattr(pictures, "LONGEST_SECONDS", 0.3)
    with subprocess.Popen(["sh", "-c", "sleep 600; true"], stdout=subprocess.PIPE) as script:
        with pictures._bounded(SimpleNamespace(_proc=script)):
            assert script.stdout.readline() == b""
        script.wait(timeout=60)

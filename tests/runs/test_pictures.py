"""Pictures: what a machine without a browser does, where they are wanted and where they are needed."""

import logging

import plotly.io
import pytest
from plotly import graph_objects

from newllm.runs.pictures import write_pictures, write_pictures_where_possible


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_without_a_browser_a_note_takes_the_place_of_the_picture(tmp_path, monkeypatch, caplog, error):
    def no_browser(*_, **__):
        raise error("Kaleido requires\nGoogle Chrome to be installed.")

    monkeypatch.setattr(plotly.io, "write_images", no_browser)
    wanted = ([graph_objects.Figure()], [tmp_path / "figure.png"])
    with caplog.at_level(logging.INFO):
        write_pictures_where_possible(*wanted)
    assert "Kaleido requires Google Chrome to be installed." in caplog.text
    with pytest.raises(error, match="Google Chrome"):
        write_pictures(*wanted)


def test_a_folder_that_cannot_be_written_is_an_error_not_a_note(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(plotly.io, "write_images", refused)
    with pytest.raises(PermissionError):
        write_pictures_where_possible([graph_objects.Figure()], [tmp_path / "figure.png"])

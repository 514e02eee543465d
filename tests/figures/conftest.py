"""What the tests of figures and controls share."""

import plotly.io
import pytest


@pytest.fixture
def figures_as_data():
    """As a notebook's first cell has it."""
    before = plotly.io.renderers.default
    plotly.io.renderers.default = "plotly_mimetype"
    yield
    plotly.io.renderers.default = before

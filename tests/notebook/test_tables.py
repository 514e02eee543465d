"""What stands under a cell: the same table as HTML and as text, coloured only where a difference is told."""

import itertools
import re

import pandas as pd
import pytest

from newllm.analysis.tables import BARS
from newllm.figures.style import BETTER, WORSE
from newllm.notebook.findings import Findings
from newllm.notebook.tables import show, show_arms

ARM = {"seeds": 1, "parameter_count": 1000, "kv_bytes_per_token": 512.0, "perplexity": 90.0}
SUMMARY = pd.DataFrame(
    [
        {"arm": "mla@kv_dim=8", **ARM, "difference": -0.2, "difference_low": -0.3, "difference_high": -0.1},
        {"arm": "<b>pythia</b>", **ARM},
        {"arm": "ka", **ARM, "difference": 0.0, "difference_low": -0.1, "difference_high": 0.1},
        {"arm": "narrow", **ARM, "difference": 0.2, "difference_low": 0.1, "difference_high": 0.3},
    ]
)


def test_html_and_text_say_the_same_and_nothing_is_nan():
    table = show_arms(SUMMARY, "pythia")
    html, text = table._repr_html_(), repr(table)
    for entry in itertools.chain(*table.columns.values()):
        assert entry.strip() in text
        said = html.replace("\N{NO-BREAK SPACE}", " ").replace("<wbr>", "")
        assert entry.strip().replace("<", "&lt;").replace(">", "&gt;") in said
    # The name of an arm is the widest of all columns, unless it may go on below.
    assert ">mla@<wbr>kv_dim=<wbr>8<" in html
    # A cell is never broken between a number and its interval.
    assert " ± " not in html.partition("</table>")[0]
    assert "nan" not in (html + text).lower()
    assert html.count("<tr>") == 1 + len(SUMMARY)
    # The names begin, and the numbers end, at one place.
    lines = [line for line in text.splitlines() if "1,000" in line]
    assert len(lines) == len(SUMMARY)
    assert len({line.index("1,000") for line in lines}) == 1


def test_what_decides_stands_before_what_a_narrow_page_cuts():
    rows = SUMMARY.assign(accuracy=0.25, verdict=["better", "", "cannot be told", "worse"], stream_perplexity=95.0)
    headings = list(show_arms(rows, "pythia", ["stream_perplexity"]).columns)
    first = ["arm", "KV bytes a token (measured)", BARS, "perplexity", "nats/token from pythia", "verdict", "seeds"]
    assert headings == [*first, "parameters", "accuracy", "perplexity on the continuous stream"]


@pytest.mark.parametrize("width", [20, 60, 200])
def test_a_terminal_of_any_width_gets_the_whole_table_in_pieces_that_begin_with_the_names(width):
    table = show_arms(SUMMARY, "pythia")
    pieces = table.text(width).split("\n\n")[:-1]
    for text in itertools.chain(*table.columns.values()):
        assert any(text.strip() in piece for piece in pieces)
    assert all("<b>pythia</b>" in piece for piece in pieces)
    assert (len(pieces) == 1) == (width == 200)
    if width > 20:
        assert max(len(line) for piece in pieces for line in piece.splitlines()) <= width


@pytest.mark.parametrize(("arm", "colour"), [("mla@kv_dim=8", BETTER), ("ka", None), ("narrow", WORSE)])
def test_only_a_difference_whose_interval_leaves_out_zero_is_coloured(arm, colour):
    html = show_arms(SUMMARY, "pythia")._repr_html_()
    row = next(line for line in html.replace("<wbr>", "").splitlines() if f">{arm}<" in line)
    assert [found for found in (BETTER, WORSE) if found in row] == ([colour] if colour else [])


def test_a_difference_of_which_nothing_can_be_told_is_not_coloured():
    html = show_arms(SUMMARY.assign(verdict="cannot be told"), "pythia")._repr_html_()
    assert BETTER not in html
    assert WORSE not in html


def test_a_table_without_rows_is_its_caption():
    table = show(pd.DataFrame(columns=["arm", "perplexity"]), caption="There is nothing to compare.")
    assert repr(table) == "There is nothing to compare."
    assert table._repr_html_() == "<p>There is nothing to compare.</p>"


def test_only_the_asked_columns_are_shown_and_the_caption_explains_what_is_there():
    table = show(SUMMARY, ["arm", "perplexity"])
    assert list(table.columns) == ["arm", "perplexity"]
    assert table.caption == ""
    assert "negative is better" in show(SUMMARY).caption


def test_the_caption_of_one_seed_says_so_and_that_of_several_speaks_of_seeds():
    """With one seed no measure has an interval, and that of a difference is over documents."""
    one = show_arms(SUMMARY.assign(verdict="cannot be told"), "pythia").caption
    assert "documents alone" in one and "no verdict" in one
    over_seeds = {"perplexity_low": 89.0, "perplexity_high": 91.0}
    several = show_arms(SUMMARY.assign(seeds=2, verdict="cannot be told", **over_seeds), "pythia").caption
    assert "seeds and documents together" in several and "documents alone" not in several
    assert "no verdict" not in several
    few = SUMMARY.assign(seeds=[2, 1, 1, 1], verdict="cannot be told", **over_seeds)
    assert "no verdict" in show_arms(few, "pythia").caption
    assert not re.search("green|orange|colour", one + several)


def test_findings_are_a_list_in_markdown_and_lines_in_text():
    found = Findings(["one", "two"])
    assert found._repr_markdown_().splitlines()[2:] == repr(found).splitlines()[1:] == ["- one", "- two"]

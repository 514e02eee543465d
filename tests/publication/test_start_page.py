"""The page of ``newllm start``: whole from its first version on, in words, and nothing in it is fetched."""

import math
import re

import pandas as pd
import torch
from hypothesis import given
from hypothesis import strategies as st

from newllm.evaluation.cache import measure
from newllm.evaluation.verdicts import BETTER, EQUIVALENT, OPEN, WORSE
from newllm.models import create
from newllm.publication import start_content, templates
from newllm.publication.picture import CIRCLE, DIAMOND, picture_of
from newllm.publication.start_content import TOKENS, calculator, speak, verdict
from newllm.publication.start_page import Progress, Result, Spoken, StartPage, render
from tests.publication.board_records import write_record

SPOKEN = Spoken("The <people>", (" of", " the"), (100, 200))
RESULT = Result("mla@note=</script>", "one vector", 1024.0, 120.0, 2.0, "half of the bytes", SPOKEN)


def test_the_first_page_needs_nothing_and_asks_to_be_read_again(tmp_path):
    page = render(StartPage("Getting ready.", first_picture=tmp_path / "missing.png"))
    assert "Getting ready." in page and "location.reload" in page and "<img" not in page
    assert "location.reload" not in render(StartPage("Done.", is_done=True))


def test_what_is_shown_is_escaped_and_nothing_is_fetched(tmp_path):
    (tmp_path / "known.png").write_bytes(b"picture")
    progress = (Progress("<b>arm", "training", 0.5, "train 3.2", "9 s left"),)
    for page in (
        render(StartPage("At work.", progress=progress, first_picture=tmp_path / "known.png")),
        render(
            StartPage("Done.", is_done=True, results=(RESULT,), paths={"report": "/a/<b>"}, commands={"go": "a && b"})
        ),
    ):
        assert "<b>arm" not in page and '</script>"' not in page and "/a/<b>" not in page and "<people>" not in page
        assert page.count("</script>") == 1
        assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*", page) == []


@given(st.sampled_from([BETTER, WORSE, EQUIVALENT, OPEN]), st.floats(-0.5, 0.5), st.floats(0.001, 0.3))
def test_the_words_of_a_verdict_are_those_of_the_table(found, mean, half):
    words = verdict(0.25, (mean, mean - half, mean + half), found)
    assert words.startswith("a quarter of the bytes, ") and f"({mean:+.3f} nats a token [" in words
    assert [known for known in (BETTER, WORSE, EQUIVALENT, OPEN) if known in words] == [found]


def test_shares_are_said_as_a_reader_says_them():
    assert verdict(0.1875, (0.2, 0.1, 0.3), WORSE).startswith("18.8% of the bytes, it predicts worse (+0.200 nats")
    assert verdict(0.5, (0.2, math.nan, math.nan)).endswith("cannot be told at this budget (+0.200 nats a token)")
    assert verdict(0.5, (float("nan"),) * 3) == "half of the bytes, and no difference was taken"


def test_names_break_where_their_parts_are_joined_and_nowhere_else():
    page = render(StartPage("Done.", is_done=True, results=(RESULT,)))
    assert "<strong>mla@<wbr>note=<wbr>&lt;/script&gt;</strong>" in page


def test_the_control_keeps_no_more_than_the_latent_where_a_whole_head_allows_it():
    counted = calculator()["values"]
    for size, values in counted.items():
        latent, heads, one = values["mla"][0], values["mqa"][0], values["mqa"][0] // _heads(size)
        assert heads <= latent or heads == one
        assert heads + one > latent


def _heads(size: str) -> int:
    with torch.device("meta"):
        return int(create("mqa", size).config.num_key_value_heads)


def test_the_calculator_counts_what_caches_hold(monkeypatch):
    monkeypatch.setattr(start_content, "SIZES", ("tiny",))
    values = calculator()["values"]["tiny"]
    torch.manual_seed(0)
    for name in ("pythia", "mla"):
        measured = measure(create(name, "tiny"), TOKENS[0]).measured_bytes
        assert values[name][0] * torch.float32.itemsize == measured


def test_a_model_speaks_beside_the_bytes_of_its_cache(text_data):
    torch.manual_seed(0)
    model = create("mla", "tiny", vocab_size=len(text_data.tokenizer)).eval()
    spoken = speak(model, text_data.tokenizer, "The river", seed=1)
    assert spoken == speak(model, text_data.tokenizer, "The river", seed=1)
    assert len(spoken.pieces) == len(spoken.cache_bytes) > 0
    per_token = model.cached_values(2) - model.cached_values(1)
    steps = {later - earlier for earlier, later in zip(spoken.cache_bytes, spoken.cache_bytes[1:], strict=False)}
    assert steps <= {per_token * torch.float32.itemsize}


def test_own_results_stand_among_the_published_ones_and_move_no_front(tmp_path, monkeypatch):
    monkeypatch.setattr(start_content, "reference_folder", lambda: tmp_path)
    assert start_content.published() == (None, ())
    for arm, bits, kept in (("pythia", 2.0, 8192.0), ("mla", 2.1, 1024.0)):
        write_record(tmp_path / arm, arm, bits=bits, kept=kept)
    picture, methods = start_content.published()
    assert picture is not None and {method.arm for method in methods} == {"pythia", "mla"}
    own = pd.DataFrame([picture["rows"][0]]).drop(columns="id").assign(bits_per_byte=0.1, arm="mine")
    both, same = start_content.published(own, "mini")
    assert both is not None and same == methods
    other, _ = start_content.published(own, "tiny")
    assert other is not None and len(other["rows"]) == len(methods)
    assert [row["arm"] for row in both["rows"]][-1] == "here: mine"
    assert not both["layout"].front[-1]
    page = render(StartPage("Done.", is_done=True, published=both, methods=methods))
    # Once as wide as a page and once for a narrow window.
    assert page.count('class="point') == 2 * len(both["rows"])


def test_seeds_and_bytes_of_a_point_are_whole_numbers_and_what_is_ones_own_is_a_diamond():
    picture, methods = start_content.published()
    assert picture is not None and picture["colours"]
    own = pd.DataFrame([picture["rows"][0]]).drop(columns="id").assign(kv_bytes_per_token=98304.0, arm="mine")
    both, _ = start_content.published(own, "mini")
    page = render(StartPage("Done.", is_done=True, published=both, methods=methods))
    said = re.findall(r" bits per byte, (\S+) bytes per token, (\S+) seeds?</title>", page)
    assert len(said) == page.count('class="point')
    assert all(re.fullmatch(r"[\d,]+", number) for point in said for number in point), said
    # The key names what sets such points apart: no colour, which may be that of an encoding.
    diamonds = re.findall(r'class="point otherwise".*?<path d=', page, flags=re.DOTALL)
    assert len(diamonds) == page.count('class="point otherwise"') >= 2
    assert "Diamonds: trained otherwise" in page and "Orange" not in page


def test_the_key_shows_the_marks_of_each_encoding_and_says_whether_points_hide_their_bars():
    picture, methods = start_content.published()
    assert picture is not None
    page = render(StartPage("Done.", is_done=True, published=picture, methods=methods))
    colour, marks = picture["colours"]["recurrence"]
    # All of them were trained otherwise: as diamonds, in the colour of the key.
    assert marks == DIAMOND and f'class="point otherwise" style="--mark: {colour}"' in page
    assert picture["colours"]["no encoding"][1] == CIRCLE
    nothing = pd.DataFrame(picture["rows"]).assign(bits_per_byte_low=float("nan"), bits_per_byte_high=float("nan"))
    assert picture_of(nothing)["bars"] == ""
    wide = nothing.assign(bits_per_byte_low=nothing.bits_per_byte - 0.1, bits_per_byte_high=nothing.bits_per_byte + 0.1)
    assert picture_of(wide)["bars"] == "Bars: 95 % intervals over seeds."
    # The best has an interval of nearly nothing.
    mixed = wide.assign(
        bits_per_byte_low=wide.bits_per_byte_low.where(wide.index > 0, wide.bits_per_byte - 1e-6),
        bits_per_byte_high=wide.bits_per_byte_high.where(wide.index > 0, wide.bits_per_byte + 1e-6),
    )
    assert "shorter than the point" in picture_of(mixed)["bars"]


def test_few_bytes_have_a_fraction_and_many_no_power_of_ten():
    assert [templates.kept(number) for number in (0.0, 3.36, 512.0, 98304.0)] == ["0", "3.36", "512", "98,304"]

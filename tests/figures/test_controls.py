"""Controls that draw what a hand chooses, say why where nothing can be drawn, and leave a picture without a kernel."""

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from newllm import figures
from newllm.figures import controls
from newllm.figures.lines import OTHERS
from newllm.figures.style import colour
from newllm.figures.widgets import WIDGET
from newllm.models import create
from tests.figures.test_widgets import FIGURE, shown

SUMMARY = pd.DataFrame(
    {
        "arm": ["pythia", "mla", "context-kv-oacd"],
        "kv_bytes_per_token": [8192.0, 1024.0, 0.0],
        "kv_bytes": [8192.0 * 256, 1024.0 * 256, 1344.0],
        "bits_per_byte": [1.4, 1.45, 1.6],
        "bits_per_byte_low": [1.39, 1.44, float("nan")],
        "bits_per_byte_high": [1.41, 1.46, float("nan")],
        "seeds": [2, 2, 1],
    }
)
PASSES = pd.DataFrame({"iteration": [1, 1, 9, 9], "rank": [1, 2] * 2, "share": [0.9, 0.1, 0.6, 0.4]})
CONTEXTS = pd.DataFrame({"iteration": [1, 1, 9, 9], "x": [0.0, 1, 2, 3], "y": [3.0, 2, 1, 0]})
PLACED = ["arm", "seed", "start", "end", "perplexity"]
LEARNED = ["arm", "seed", "epoch", "train_loss", "validation_loss"]

pytestmark = pytest.mark.usefixtures("figures_as_data")


def title(box):
    return shown(box)["layout"]["title"]["text"]


def test_a_control_carries_its_first_picture_for_readers_without_a_kernel():
    box = controls.training_pass(PASSES, CONTEXTS)
    bundle = box._repr_mimebundle_()
    assert bundle[FIGURE]["layout"]["title"]["text"] == "After pass 9"
    assert WIDGET in bundle


def test_passes_are_moved_through_on_axes_that_stay():
    box = controls.training_pass(PASSES, CONTEXTS)
    [slider] = box.children[0].children
    last = shown(box)["layout"]
    slider.value = 1
    assert title(box) == "After pass 1"
    assert shown(box)["layout"]["yaxis"]["range"] == last["yaxis"]["range"]
    assert shown(box)["layout"]["xaxis2"]["range"] == last["xaxis2"]["range"]


def test_arms_are_drawn_in_their_order_and_none_is_said():
    drawn = []

    def draw(arms):
        drawn.append(arms)
        return go.Figure()

    box = controls.arms_on_and_off(["a", "b", "a", "c"], {"one": draw, "other": draw})
    picture, arms = box.children[0].children
    arms.value = ("c", "a")
    picture.value = "other"
    assert drawn == [["a", "b", "a", "c"], ["a", "a", "c"], ["a", "a", "c"]]
    arms.value = ()
    assert "no arm is chosen" in shown(box)


@pytest.mark.parametrize("picture", ["by position", "while training"])
def test_an_arm_keeps_its_colour_when_others_go(picture):
    """Nine arms: the last one shares its colour with the first, and has dashes."""
    arms = [f"arm{place}" for place in range(9)]
    positions = pd.DataFrame([(arm, 0, start, start + 8, 9.0) for arm in arms for start in (0, 8)], columns=PLACED)
    learned = pd.DataFrame([(arm, 0, epoch, 2.0, 3.0) for arm in arms for epoch in (1, 2)], columns=LEARNED)
    box = controls.arms_on_and_off(
        arms,
        {
            "by position": lambda chosen: figures.position_perplexity(positions[positions.arm.isin(chosen)]),
            "while training": lambda chosen: figures.training_curves(learned[learned.arm.isin(chosen)]),
        },
    )
    choice, chosen = box.children[0].children
    choice.value = picture
    everyone = {line["name"]: line["line"] for line in shown(box)["data"]}
    assert len({(line["color"], line["dash"]) for name, line in everyone.items() if name in arms}) == 9
    chosen.value = ("arm3", "arm8")
    some = {line["name"]: line["line"] for line in shown(box)["data"]}
    assert len(some) in (2, 4)
    assert all(everyone[name] == line for name, line in some.items())


def test_the_told_arms_have_the_first_colours_and_eight_chosen_ones_are_all_told_apart():
    arms = [f"mqa@num_attention_heads={2**place}" for place in range(12)]
    told = [arms[5], arms[0]]
    positions = pd.DataFrame([(arm, 0, start, start + 8, 9.0) for arm in arms for start in (0, 8)], columns=PLACED)
    box = controls.arms_on_and_off(
        arms, {"all": lambda chosen: figures.position_perplexity(positions[positions.arm.isin(chosen)], told)}, told
    )
    coloured = {line["name"]: line["line"]["color"] for line in shown(box)["data"] if line["name"] != OTHERS}
    assert coloured == {"mqa: 32 heads": colour(0), "mqa: 1 heads": colour(1)}
    _, chosen = box.children[0].children
    chosen.value = tuple(arms[4:10])
    some = {line["name"]: line["line"]["color"] for line in shown(box)["data"]}
    assert some["mqa: 32 heads"] == colour(0)
    assert len(some) == 6 and OTHERS not in some


def test_a_width_is_a_line_among_the_arms():
    box = controls.width_against_quality(SUMMARY, "kv_dim", 64, bytes_of_a_value=16)
    assert title(box) == "kv_dim 64 keeps 1,0 KiB of a token (the line)".replace(",", ".")
    [width] = box.children[0].children
    width.value = 128
    assert [shape["x0"] for shape in shown(box)["layout"]["shapes"]][-1] == 2048


def test_the_attended_contexts_follow_position_and_chunk():
    """Four at position 350 with chunks of 100: three ends of chunks and its own."""
    box = controls.attended_chunks(350, 100)
    assert title(box).startswith("Position 350 attends to 4 of")
    position, chunk = box.children[0].children
    position.value = 299  # the end of a chunk, whose context counts once
    assert title(box).startswith("Position 299 attends to 3 of")
    chunk.value = 1
    assert title(box).startswith("Position 299 attends to 300 of")


def test_scores_follow_encodings_and_slope():
    box = controls.score_against_distance(slope=1 / 16, longest=32)
    encodings, slope, _ = box.children[0].children
    encodings.value = ("alibi",)
    assert [line["name"] for line in shown(box)["data"]] == ["alibi"]
    slope.value = 0.5
    encodings.value = ()
    assert "no encoding is chosen" in shown(box)


def test_the_bytes_of_a_sequence_follow_its_length():
    box = controls.quality_at_length(SUMMARY, tokens=1024, seq_length=256)
    methods, tokens = box.children[0].children
    assert methods.options == ("pythia", "mla", "context-kv")
    methods.value = ("mla",)
    tokens.value = 2048
    assert "2,048 tokens" in title(box)
    assert shown(box)["layout"]["yaxis"]["title"]["text"].endswith("in windows of 256 tokens")
    points = [trace for trace in shown(box)["data"] if trace.get("text")]
    assert [list(trace["text"]) for trace in points] == [["mla"]]
    methods.value = ("mla", "context-kv")
    ticks = shown(box)["layout"]["xaxis"]["ticktext"]
    assert "0" not in ticks and "1 MiB" in ticks, "a state of fixed size stands at its bytes, as it does not grow"


def test_models_go_on_from_what_is_written(text_data):
    torch.manual_seed(0)
    model = create("pythia", "tiny", vocab_size=len(text_data.tokenizer)).eval()
    box = controls.prompt_box({"pythia": model}, text_data.tokenizer, "The river", tokens=4)
    [prompt] = box.children[0].children
    first = shown(box)
    prompt.value = "A small town"
    assert first.startswith("pythia: ") and shown(box).startswith("pythia: ")
    prompt.value = ""
    assert "write a beginning" in shown(box)


def test_what_models_say_keeps_its_lines_and_is_no_markup():
    html = controls._Texts({"pythia": "one\n\n<b>two"})._repr_html_()
    assert "one<br><br>&lt;b&gt;two" in html and "\\n" not in html


def test_blocks_are_drawn_side_by_side(text_data):
    model = create("cascade", "tiny", vocab_size=len(text_data.tokenizer), embedding_source="random").eval()
    box = controls.block_contexts(model, text_data.tokenizer, "The river follows")
    text, values = box.children[0].children
    values.value = 8
    drawn = shown(box)["data"]
    assert len(drawn) == len(model.context_blocks)
    text.value = ""
    assert "write a word" in shown(box)

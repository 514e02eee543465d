import numpy as np
import pandas as pd
import pytest

from newllm import figures
from newllm.figures import style
from newllm.figures.style import colour
from newllm.models.position import build_alibi_bias_causal

HISTORY = pd.DataFrame(
    {
        "iteration": [1, 2, 3],
        "distance_term": [-0.1, -0.2, -0.3],
        "centroid_term": [2.0, 1.0, 0.5],
        "loss": [1.9, 0.8, 0.2],
        "convergence_rate": [0.0, 0.5, 0.96],
        "effective_rank": [10.0, 20.0, 30.0],
    }
)
EPOCHS = pd.DataFrame(
    {
        "arm": ["pythia", "pythia", "pythia", "dproj", "dproj", "dproj"],
        "seed": [0, 1, 0, 0, 1, 0],
        "epoch": [1, 1, 2, 1, 1, 2],
        "train_loss": [6.0, 5.0, 4.0, 6.2, 5.2, 4.2],
        "validation_loss": [5.0, 4.0, 3.0, 5.2, 4.2, 3.2],
    }
)


def series(figure):
    return {trace.name: trace for trace in figure.data}


def test_loss_terms_are_drawn_as_they_add_up():
    drawn = series(figures.loss_terms(HISTORY, centroid_weight=0.1))
    assert list(drawn["distance term"].y) == [-0.1, -0.2, -0.3]
    assert list(drawn["centroid term times its weight of 0.1"].y) == pytest.approx([0.2, 0.1, 0.05])


def test_convergence_is_in_percent_and_marks_its_target():
    figure = figures.convergence(HISTORY, target=0.95)
    assert list(series(figure)["converged tokens"].y) == [0.0, 50.0, 96.0]
    assert figure.layout.shapes[0].y0 == 95.0


def test_converged_tokens_are_in_percent_a_line_a_training():
    histories = pd.concat([HISTORY.assign(recurrence="as it is"), HISTORY.assign(recurrence="changed")])
    figure = figures.converged_tokens(histories, target=0.9)
    assert {name: list(trace.y) for name, trace in series(figure).items()} == {
        "as it is": [0.0, 50.0, 96.0],
        "changed": [0.0, 50.0, 96.0],
    }
    assert figure.layout.shapes[0].y0 == pytest.approx(90.0)


def test_spectrum_sums_to_a_hundred_percent_and_falls():
    drawn = series(figures.spectrum({"untrained": [1.0, 3.0, 6.0]}))["untrained"]
    assert list(drawn.y) == pytest.approx([60.0, 30.0, 10.0])


def test_training_curves_are_means_over_seeds():
    drawn = series(figures.training_curves(EPOCHS))
    assert list(drawn["pythia"].y) == [4.5, 3.0]
    assert list(drawn["dproj, training"].y) == pytest.approx([5.7, 4.2])


def test_arms_show_every_seed_and_the_mean_best_first():
    results = pd.DataFrame({"arm": ["a", "a", "b"], "seed": [0, 1, 0], "perplexity": [30.0, 50.0, 10.0]})
    figure = figures.arms(results, "perplexity", "perplexity")
    means, seeds = figure.data
    assert dict(zip(means.y, means.x, strict=True)) == {"b": 10.0, "a": 40.0}
    assert list(figure.layout.yaxis.categoryarray) == ["b", "a"]
    assert sorted(seeds.x) == [10.0, 30.0, 50.0]
    # An arm's colour is that of its place in the results, as in figures whose arms are not sorted.
    assert dict(zip(means.y, means.marker.color, strict=True)) == {"a": colour(0), "b": colour(1)}


def test_one_loss_an_arm_is_a_dot_on_a_line_of_its_own():
    figure = figures.training_curves(EPOCHS[EPOCHS["epoch"] == 1])
    assert list(figure.layout.yaxis.categoryarray) == ["pythia", "dproj"]
    assert dict(zip(figure.data[0].y, figure.data[0].x, strict=True)) == pytest.approx({"pythia": 4.5, "dproj": 4.7})


def test_every_figure_leaves_the_page_its_background_and_its_width():
    figure = figures.training_curves(EPOCHS)
    assert figure.layout.template.layout.paper_bgcolor == figure.layout.template.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.width is None


def test_front_keeps_what_nothing_beats_on_both():
    summary = pd.DataFrame(
        {
            "arm": ["pythia", "narrow", "mla", "worse"],
            "kv_bytes_per_token": [24576.0, 15360.0, 3072.0, 20000.0],
            "bits_per_byte": [2.0, 2.2, 2.1, 2.3],
            "bits_per_byte_low": [1.9, 2.1, 2.0, np.nan],
            "bits_per_byte_high": [2.1, 2.3, 2.2, np.nan],
            "seeds": [2, 2, 3, 1],
        }
    )
    figure = figures.quality_against_bytes(summary)
    drawn = series(figure)
    assert figure.layout.width is None
    assert list(drawn["nothing is better on both"].x) == [3072.0, 24576.0]
    assert list(drawn["mean over seeds"].text) == ["pythia", "narrow", "mla"]
    assert list(drawn["one seed"].text) == ["worse"]


def test_counts_are_lines_across_where_points_are():
    summary = pd.DataFrame(
        {"arm": ["a", "b"], "kv_bytes_per_token": [64.0, 512.0], "bits_per_byte": [2.0, 2.2], "seeds": [1, 1]}
        | {f"bits_per_byte_{end}": [np.nan] * 2 for end in ("low", "high")}
    )
    floor = pd.DataFrame({"arm": ["4-gram", "2-gram"], "bits_per_byte": [2.1, 3.0]})
    figure = figures.quality_against_bytes(summary, floor=floor)
    assert [shape.y0 for shape in figure.layout.shapes] == [2.1], "the other one would flatten all points"
    assert "counts: 4-gram" in [note.text for note in figure.layout.annotations]
    assert not figures.quality_against_bytes(summary).layout.shapes


def test_what_was_trained_otherwise_is_drawn_apart_from_the_front():
    summary = pd.DataFrame(
        {
            "arm": ["pythia", "cascade", "mla"],
            "kv_bytes_per_token": [8192.0, 0.0, 1024.0],
            "bits_per_byte": [2.0, 1.5, 2.1],
            "bits_per_byte_low": [1.9, 1.4, 1.9],
            "bits_per_byte_high": [2.1, 1.6, 2.3],
            "seeds": [2, 2, 1],
            "trained_otherwise": [False, True, False],
        }
    )
    drawn = series(figures.quality_against_bytes(summary))
    assert list(drawn["trained otherwise"].text) == ["cascade"]
    assert list(drawn["one seed"].error_y.array) == pytest.approx([0.2])
    assert list(drawn["nothing is better on both"].x) == [1024.0, 8192.0]


def test_no_bytes_a_token_stand_left_of_all_others_under_a_zero():
    summary = pd.DataFrame(
        {
            "arm": ["cascade", "mla", "pythia"],
            "kv_bytes_per_token": [0.0, 512.0, 8192.0],
            "bits_per_byte": [2.3, 2.0, 1.9],
            "bits_per_byte_low": [np.nan] * 3,
            "bits_per_byte_high": [np.nan] * 3,
            "seeds": [1] * 3,
        }
    )
    figure = figures.quality_against_bytes(summary)
    dots = series(figure)["one seed"]
    assert [list(measured) for measured in dots.customdata] == [[0.0, 2.3], [512.0, 2.0], [8192.0, 1.9]]
    assert 0 < dots.x[0] < 512 == dots.x[1]
    ticks = dict(zip(figure.layout.xaxis.ticktext, figure.layout.xaxis.tickvals, strict=True))
    assert ticks["0"] == dots.x[0]
    low, high = figure.layout.xaxis.range
    assert low < np.log10(dots.x[0])
    assert np.log10(dots.x[2]) < high
    assert {note.text for note in figure.layout.annotations} >= set(summary["arm"])


def test_a_hidden_key_is_blank_and_a_seen_one_is_not():
    bias = build_alibi_bias_causal(5, 0.5)
    figure = figures.attention_biases({"right": bias, "swapped": bias.T})
    right, swapped = (np.array(trace.z, dtype=float) for trace in figure.data if trace.type == "heatmap")
    assert np.isnan(right[0, 1])
    assert right[1, 0] == -0.5
    assert np.array_equal(np.isnan(swapped), np.isnan(right).T)


def test_certificate_draws_forbidden_and_required_change():
    checks = pd.DataFrame({"model": ["pythia"], "name": ["full pass"], "change": [0.0], "power": [0.1]})
    drawn = series(figures.certificate(checks))
    assert list(drawn["pythia: forbidden change"].x) == [1e-18]
    assert list(drawn["pythia: required change"].x) == [0.1]


@pytest.mark.parametrize(
    ("make", "frame", "expected"),
    [
        (
            figures.position_perplexity,
            pd.DataFrame({"arm": ["a", "a"], "start": [0, 0], "end": [16, 16], "perplexity": [10.0, 20.0]}),
            15.0,
        ),
        (
            lambda frame: figures.extrapolation(frame, 128),
            pd.DataFrame({"arm": ["a", "a"], "seq_length": [128, 128], "perplexity": [10.0, 20.0]}),
            15.0,
        ),
        (
            figures.score_by_distance,
            pd.DataFrame({"encoding": ["alibi"], "distance": [4], "score": [15.0]}),
            15.0,
        ),
        (
            lambda frame: figures.against_context_length(frame, "seconds", "Decoding", "seconds"),
            pd.DataFrame({"model": ["a"], "context": [1024], "seconds": [15.0]}),
            15.0,
        ),
        (
            figures.precision_against_bytes,
            pd.DataFrame({"arm": ["a"], "precision": ["int8"], "bytes_per_token": [15.0], "bits_per_byte": [15.0]}),
            15.0,
        ),
        (
            figures.directions,
            pd.DataFrame({"arm": ["a"], "forward_perplexity": [15.0], "backward_perplexity": [90.0]}),
            15.0,
        ),
        (
            figures.knowledge_gains,
            pd.DataFrame(
                {
                    "arm": ["a"],
                    **{f"{way}_gain{end}": [15.0] for way in ("forward", "backward") for end in ("", "_low", "_high")},
                }
            ),
            15.0,
        ),
    ],
)
def test_curves_hold_the_means_of_their_frame(make, frame, expected):
    figure = make(frame)
    assert figure.data[0].y[0] == pytest.approx(expected)
    assert figure.layout.xaxis.title.text is not None
    assert figure.layout.yaxis.title.text


def test_extrapolation_has_the_interval_over_seeds_of_all_arms():
    frame = pd.DataFrame(
        {"arm": ["a", "a", "b"], "seq_length": [128, 128, 128], "perplexity": [10.0, 20.0, 7.0], "seed": [0, 1, 0]}
    )
    drawn = series(figures.extrapolation(frame, 128))
    # Student's t with one degree of freedom, 12.71 standard errors, of the logarithms.
    a, b = (drawn[arm].error_y for arm in "ab")
    reach = 12.706 * np.log(2) / np.sqrt(2)
    assert a.arrayminus[0] == pytest.approx(15 * (1 - np.exp(-reach / np.sqrt(2))), rel=1e-3)
    assert a.array[0] == pytest.approx(15 * (np.exp(reach / np.sqrt(2)) - 1), rel=1e-3)
    assert b.arrayminus[0] == pytest.approx(7 * (1 - np.exp(-reach)), rel=1e-3)


def test_visible_slots_are_the_mask():
    figure = figures.visible_slots([[True, False], [True, True]], ["own", "chunk 1"])
    assert np.array_equal(np.array(figure.data[0].z, dtype=bool), [[True, False], [True, True]])
    assert list(figure.data[0].x) == ["own", "chunk 1"]


def test_differences_carry_the_interval_of_each_change():
    studies = pd.DataFrame(
        {
            "change": ["one block", "four blocks", "untied"],
            "difference": [0.1, -0.2, 0.0],
            "difference_low": [0.05, -0.3, np.nan],
            "difference_high": [0.2, -0.1, np.nan],
            "verdict": ["worse", "better", "cannot be told"],
        }
    )
    figure = figures.differences(studies, "the base arm")
    drawn = series(figure)
    ends = {"worse": ("one block", 0.05, 0.1), "better": ("four blocks", 0.1, 0.1)}
    for verdict, (change, below, above) in ends.items():
        points = drawn[verdict]
        assert list(points.y) == [change]
        assert list(points.error_x.arrayminus) == pytest.approx([below])
        assert list(points.error_x.array) == pytest.approx([above])
    assert list(figure.layout.yaxis.categoryarray) == ["one block", "four blocks", "untied"]


def test_a_picture_without_a_difference_says_so():
    figure = figures.differences(pd.DataFrame(columns=["change", "difference"]), "the base arm")
    assert not figure.data
    assert any(note.text.startswith("no other arm") for note in figure.layout.annotations)


def test_what_is_kept_is_drawn_to_one_scale():
    entries = pd.DataFrame(
        [("small", 0, "state", 3), ("large", 0, "keys", 8), ("large", 1, "keys", 8), ("large", 1, "values", 2)],
        columns=["model", "token", "kind", "values"],
    )
    figure = figures.kept_by_token(entries)
    assert [text.text for text in figure.layout.annotations] == ["large", "small"]
    assert figure.layout.yaxis.range == figure.layout.yaxis2.range == (0, 1.05 * 10)
    assert sum(sum(bar.y) for bar in figure.data) == 21


def test_cache_sizes_are_written_beside_their_bars():
    table = pd.DataFrame({"model": ["a", "b"], "bytes": [3 * 2**20, 1536], "share": [1.0, 0.00049]})
    figure = figures.cache_sizes(table)
    assert list(figure.data[0].text) == ["3.0 MiB (100 %)", "1.5 KiB (0.049 %)"]


def test_healing_begins_where_its_conversion_is_not_healed():
    def row(what, tokens, difference, *, conversion="latent", control=False, stage="healed"):
        ends = {"difference_low": difference - 0.01, "difference_high": difference + 0.01}
        return {"what": what, "conversion": conversion, "stage": stage, "healing_tokens": tokens} | {
            "bytes_per_token": 64.0, "difference": difference, "control": control, **ends,
        }  # fmt: skip

    stages = pd.DataFrame(
        [
            row("latent", 0, 0.5, stage="factorised"),
            row("latent", 2000, 0.2),
            row("latent", 1000, 0.3),
            row("latent, by the original", 1000, 0.1),
            row("replaced parts random", 1000, 4.0, conversion="random", stage="replaced parts random", control=True),
            row("2 averaged heads", 0, 0.9, conversion="heads", stage="2 averaged heads", control=True),
        ]
    )
    drawn = {line.name: (list(line.x), list(line.y)) for line in figures.lost_against_healing(stages).data}
    assert drawn == {
        "latent, 64 bytes": (["none", "1,000", "2,000"], [0.5, 0.3, 0.2]),
        "latent, by the original, 64 bytes": (["none", "1,000"], [0.5, 0.1]),
    }


def test_lines_are_named_by_their_arms_in_words_and_keep_the_range_of_their_seeds():
    records = pd.DataFrame(
        {
            "arm": ["mqa@num_attention_heads=8"] * 4 + ["pythia"] * 2,
            "learning_rate": [1e-3, 1e-3, 2e-3, 2e-3, 1e-3, 2e-3],
            "validation_loss": [4.0, 4.4, 3.0, 3.2, 5.0, 4.5],
        }
    )
    drawn = series(figures.learning_rates(records))
    assert list(drawn) == ["mqa: 8 heads", "pythia"]
    assert list(drawn["mqa: 8 heads"].error_y.array) == pytest.approx([0.2, 0.1])
    curves = series(figures.training_curves(EPOCHS.assign(arm="mqa@num_attention_heads=8")))
    assert list(curves) == ["mqa: 8 heads", "mqa: 8 heads, training"]


def test_points_of_one_colour_have_symbols_of_their_own_and_controls_are_open():
    count = len(style.COLOURS) + 2
    stages = pd.DataFrame(
        {
            "what": [f"way {number}" for number in range(count)],
            "stage": ["latent"] * (count - 1) + ["averaged"],
            "control": [False] * (count - 1) + [True],
            "bytes_per_token": 1024.0,
            "healing_tokens": 0,
            "difference": 0.1,
            "difference_low": 0.0,
            "difference_high": 0.2,
        }
    )
    points = figures.lost_against_bytes(stages).data
    looks = [(point.marker.color, point.marker.symbol.removesuffix("-open")) for point in points]
    assert len(set(looks)) == count
    assert [point.name for point in points if point.marker.symbol.endswith("-open")] == [f"way {count - 1} (control)"]
    assert len({point.x[0] for point in points}) == count, "side by side, though their bytes are the same"


def test_a_way_has_one_colour_and_a_panel_for_each_number_of_bytes():
    ways = [("latent", 1024.0), ("latent", 512.0), ("latent, one rotary key", 512.0), ("averaged", 512.0)]
    stages = pd.DataFrame(
        [{"conversion": way, "bytes_per_token": size, "energy_lost_by_layer": [0.1, 0.2]} for way, size in ways]
    )
    figure = figures.energy_lost(stages)
    assert [title.text for title in figure.layout.annotations] == ["1,024 bytes a token", "512 bytes a token"]
    assert [line.xaxis for line in figure.data] == ["x", "x2", "x2", "x2"]
    colours = [line.line.color for line in figure.data]
    assert colours[0] == colours[1] == colours[2] != colours[3]
    assert [line.marker.symbol for line in figure.data] == ["circle", "circle", "diamond", "circle"]
    assert [line.showlegend for line in figure.data] == [True, False, True, True]


def test_points_have_the_colour_of_their_encoding_where_there_are_several():
    summary = pd.DataFrame(
        {
            "arm": ["pythia", "mla", "mqa"],
            "kv_bytes_per_token": [8192.0, 1024.0, 2048.0],
            "bits_per_byte": [2.0, 2.1, 2.05],
            "bits_per_byte_low": [np.nan] * 3,
            "bits_per_byte_high": [np.nan] * 3,
            "seeds": [2, 1, 2],
            "encoding": ["RoPE", "ALiBi, one slope", "RoPE"],
        }
    )
    drawn = series(figures.quality_against_bytes(summary))
    assert list(drawn["RoPE"].text) == ["pythia", "mqa"]
    assert list(drawn["ALiBi, one slope: one seed"].text) == ["mla"]
    assert drawn["RoPE"].marker.color != drawn["ALiBi, one slope: one seed"].marker.color
    elsewhere = series(figures.quality_against_bytes(summary.assign(encoding=["RoPE", "ALiBi, one slope", ""])))
    assert list(elsewhere["mean over seeds"].text) == ["mqa"]
    alone = series(figures.quality_against_bytes(summary[summary["encoding"] == "RoPE"]))
    assert list(alone["mean over seeds"].text) == ["pythia", "mqa"]


def test_a_line_of_several_arms_names_each_in_words():
    rows = [(arm, context, 0.5) for arm in ("cla", "mqa@num_attention_heads=16") for context in (256, 1024)]
    rows += [("mqa@num_attention_heads=8", context, context / 256) for context in (256, 1024)]
    frame = pd.DataFrame(rows, columns=["model", "context", "mib"])
    drawn = figures.against_context_length(frame, "mib", "Memory", "MiB").data
    assert [line.name for line in drawn] == ["cla and mqa: 16 heads", "mqa: 8 heads"]

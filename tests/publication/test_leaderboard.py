"""Trials are counted once, compared within a budget only, and nothing found is left out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newllm import cli
from newllm.analysis.differences import OTHER_BUDGET
from newllm.commands.leaderboard import show
from newllm.config.errors import ParameterError
from newllm.config.groups import BUDGET, LeaderboardFilters
from newllm.files import reference_folder
from newllm.publication.leaderboard import default_folders, read_board
from newllm.publication.leaderboard_page import render
from tests.publication.board_records import write_record


def test_seeds_of_an_arm_are_a_row_with_an_interval(tmp_path):
    for seed, bits in enumerate((2.0, 2.1, 2.2)):
        write_record(tmp_path / f"a{seed}", "pythia", seed, bits)
        write_record(tmp_path / f"b{seed}", "mla", seed, bits - 0.3, kept=1024.0)
    (budget,) = read_board([tmp_path]).budgets
    assert list(budget.summary["arm"]) == ["mla", "pythia"]
    assert list(budget.summary["seeds"]) == [3, 3]
    pythia = budget.summary.iloc[1]
    assert pythia["bits_per_byte"] == pytest.approx(2.1)
    assert pythia["bits_per_byte_low"] < 2.0 < 2.2 < pythia["bits_per_byte_high"]
    assert list(budget.summary["on_front"]) == [True, False]


def test_a_picture_that_stands_alone_says_what_it_was_measured_with(tmp_path):
    for seed in (0, 1):
        write_record(tmp_path / f"a{seed}", "pythia", seed, 2.0 + seed / 10)
    write_record(tmp_path / "b", "mla", 0, 1.9, kept=1024.0)
    (budget,) = read_board([tmp_path]).budgets
    said = budget.draw().layout.title.text
    assert budget.title in said and "1 to 2 seeds" in said
    assert f"{budget.settings['lr']:g}" in said.partition("learning rates")[2]


def test_the_same_trial_found_twice_counts_once_and_the_newest_counts(tmp_path):
    write_record(tmp_path / "old", bits=2.5, day=1)
    write_record(tmp_path / "new", bits=2.0, day=2, profile="mine", device="cpu", pretrained=None)
    write_record(tmp_path / "older", bits=2.6, day=0)
    (budget,) = read_board([tmp_path]).budgets
    (record,) = budget.records.to_dict("records")
    assert record["bits_per_byte"] == 2.0
    assert record["places"] == (tmp_path / "new", tmp_path / "old", tmp_path / "older")


@pytest.mark.parametrize("key", BUDGET)
def test_every_setting_of_the_budget_sets_apart(tmp_path, key):
    own_text = {"source": "text", "text_files": ["a.txt"]} if key == "text_files" else {}
    write_record(tmp_path / "a", "pythia", **own_text)
    write_record(tmp_path / "b", "mla", **own_text)
    texts = {"text_files": ["b.txt"], "data": "b2", "source": "pile", "tokenizer": "gpt2", "size": "70m"}
    shares = dict.fromkeys(("lr", "matrix_lr", "clip", "weight_decay", "warmup", "adam_beta1", "adam_beta2"), 0.5)
    other: dict[str, Any] = texts | shares | {"schedule": "linear", "precision": "bfloat16"}
    write_record(tmp_path / "c", "mla", **own_text | {key: other.get(key, 7)})
    first, second = read_board([tmp_path]).budgets
    assert (len(first.summary), len(second.summary)) == (2, 1)
    expected = "other windows" if key == "data" else f"{key} {other.get(key, 7)} instead of"
    assert expected in second.differences(first)


def test_budgets_that_differ_alike_from_the_first_are_told_apart(tmp_path, caplog):
    for number, data in ((0, "a1"), (1, "a1"), (2, "b2"), (3, "c3")):
        write_record(tmp_path / str(number), "mla" if number else "pythia", samples=9 if number > 1 else 8, data=data)
    board = read_board([tmp_path])
    first, second, third = board.differences()
    assert first == "" and second == "samples 9 instead of 8"
    assert third == f"{second}; beside {board.budgets[1].name}: other windows, such as with facts among them"
    caplog.set_level("INFO", "newllm")
    show(board)
    assert f"Other budget {board.budgets[2].name}, 1 arm: {third}" in caplog.text


def test_what_was_trained_otherwise_is_marked_and_takes_no_part_in_the_front(tmp_path):
    write_record(tmp_path / "a", "pythia", bits=2.0)
    write_record(tmp_path / "b", "context-kv-oacd", bits=1.5, kept=3.36)
    write_record(tmp_path / "c", "mqa", bits=2.1)
    (budget,) = read_board([tmp_path]).budgets
    assert list(budget.summary["arm"]) == ["pythia", "mqa", "context-kv-oacd"]
    assert list(budget.summary["trained_otherwise"]) == [False, False, True]
    assert list(budget.summary["on_front"]) == [True, False, False]
    assert list(budget.summary["verdict"]) == ["", "", OTHER_BUDGET]


def test_what_does_not_reach_an_arm_makes_no_row_of_its_own(tmp_path):
    write_record(tmp_path / "a", "pythia", seed=0)
    write_record(tmp_path / "b", "pythia", seed=1, projection_samples=7)
    for seed in (0, 1):
        write_record(tmp_path / f"c{seed}", "dproj-oacd", seed)
    write_record(tmp_path / "d", "dproj-oacd", seed=0, projection_samples=7)
    (budget,) = read_board([tmp_path]).budgets
    rows = dict(zip(budget.summary["arm"], budget.summary["seeds"], strict=True))
    assert rows == {"pythia": 2, "dproj-oacd": 2, "dproj-oacd (projection_samples 7)": 1}


def test_a_row_is_what_was_trained_not_who_asked_for_it(tmp_path):
    """A trial that was taken over carries another notebook's name, and an arm may be written in two ways."""
    write_record(tmp_path / "a", "pythia", seed=0)
    write_record(tmp_path / "b", "pythia", seed=1, notebook="05_reversal_curse", profile="mine", prompts=["Once"])
    write_record(tmp_path / "c", "unified@position=rope", seed=2)
    write_record(tmp_path / "d", "pythia@layer_norm_eps=0.00001", seed=2, day=1)
    (budget,) = read_board([tmp_path]).budgets
    assert list(budget.summary["arm"]) == ["pythia"]
    assert list(budget.summary["seeds"]) == [3]
    assert list(budget.summary["on_front"]) == [True]
    assert budget.records["places"].map(len).sum() == 4


BROKEN = {
    "failed": (lambda text: text.replace('"passed": true', '"passed": false'), "passed causality certificate"),
    "cut short": (lambda text: text[:200], "not a record of this version"),
    "empty": (lambda text: "", "not a record of this version"),
    "a list": (lambda text: "[1, 2]", "not a record of this version"),
    "another version": (lambda text: text.replace('"arm"', '"branch"'), "arm: Field required"),
    "no number": (
        lambda text: text.replace('"bits_per_byte": 2.0', '"bits_per_byte": null'),
        "no finite bits_per_byte",
    ),
    "another notebook's": (lambda text: text.replace('"epochs": 3,', ""), "its parameters do not say epochs"),
    "no model": (
        lambda text: text.replace('"pythia"', '"pythja"'),
        "names no model (did you mean 'pythia'?)",
    ),
    "infinite": (
        lambda text: text.replace('"bits_per_byte": 2.0', '"bits_per_byte": Infinity'),
        "no finite bits_per_byte",
    ),
    "odd": (
        lambda text: text.replace('"samples": 2000', '"samples": "many"'),
        "none of this version: samples: it must be a number",
    ),
    "pretrained": (lambda text: text.replace('"pythia"', '"pretrained:somewhere"'), "trained elsewhere"),
    "impossible": (lambda text: text.replace('"perplexity": 200.0', '"perplexity": -5'), "which it cannot be"),
    "of another loss": (
        lambda text: text.replace('"perplexity": 200.0', '"perplexity": 1.5, "loss": 5.3'),
        "perplexity 1.5 is not that of the loss 5.3",
    ),
    "a leak": (lambda text: text.replace('"max_change": 1e-15', '"max_change": 1e9'), "max_change: Input should be"),
    "a word": (lambda text: text.replace('"passed": true', '"passed": "yes"'), "passed: Input should be"),
    "another size": (lambda text: text.replace('"size": "mini"', '"size": "tiny"', 1), "its parameters say mini"),
    "another method": (lambda text: text.replace('"method": "pythia"', '"method": "mla"'), "but its arm is pythia"),
    "another arm": (lambda text: text.replace('"arm": "pythia"', '"arm": "mla"'), "its parameters say arms"),
    "another seed": (lambda text: text.replace('"seed": 0', '"seed": 4'), "its parameters say seeds [0]"),
    "no zone": (lambda text: text.replace("00:00:00Z", "00:00:00"), "finished_at: Input should have timezone info"),
    "a way out": (lambda text: text.replace('"02_main_training"', '"../../evil"'), "notebook: String should match"),
    "nested": (lambda text: "[" * 100_000, "not a record of this version"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_compared_is_set_apart_with_its_reason(tmp_path, kind):
    change, reason = BROKEN[kind]
    write_record(tmp_path / "good", "mla")
    file = write_record(tmp_path / "bad")
    text = file.read_text()
    assert change(text) != text
    file.write_text(change(text))
    board = read_board([tmp_path])
    (row,) = board.set_apart.to_dict("records")
    assert row["file"] == file
    assert reason in row["reason"]
    assert [list(budget.summary["arm"]) for budget in board.budgets] == [["mla"]]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "x", "0", "2030-01-01T00:00:00", "<b>"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["tokens", "x"]), st.integers(), max_size=1),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to everything in a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_one_odd_record_takes_nothing_down(tmp_path_factory, data):
    """Whatever stands in one place of a record, every other record is shown, and this one is shown or set apart."""
    folder = tmp_path_factory.mktemp("records")
    for seed in (0, 1):
        write_record(folder / f"good{seed}", "mla", seed)
    file = write_record(folder / "odd", "pythia", day=2)
    stored = json.loads(file.read_text())
    *way, last = data.draw(st.sampled_from(list(_places(stored))))
    holder = stored
    for key in way:
        holder = holder[key]
    holder[last] = data.draw(ODD)
    file.write_text(json.dumps(stored))
    board = read_board([folder])
    arms = [arm for budget in board.budgets for arm in budget.summary["arm"]]
    assert "mla" in arms
    assert len(arms) + len(board.set_apart) >= 2
    assert render(board, folder / "page.html")
    show(board)


@pytest.mark.parametrize("name", ["arm", "seed", "method", "folder", "places"])
def test_a_metric_takes_the_place_of_no_column(tmp_path, name):
    write_record(tmp_path / "good", "mla")
    file = write_record(tmp_path / "bad")
    file.write_text(file.read_text().replace('"bits_per_byte": 2.0', f'"bits_per_byte": 2.0, "{name}": 1.0'))
    board = read_board([tmp_path])
    assert [list(budget.summary["arm"]) for budget in board.budgets] == [["mla"]]
    assert list(board.set_apart["reason"]) == [f"a metric has the name of another column: {name}"]


def test_a_failed_certificate_still_names_its_arm(tmp_path):
    file = write_record(tmp_path / "bad", "mla", seed=3)
    file.write_text(file.read_text().replace('"passed": true', '"passed": false'))
    (row,) = read_board([tmp_path]).set_apart.to_dict("records")
    assert (row["arm"], row["seed"]) == ("mla", 3)


trials = st.tuples(
    st.sampled_from(["pythia", "mla", "dproj-oacd", "unified@position=none"]),
    st.integers(0, 2),
    st.sampled_from([1e-4, 3e-4]),
    st.sampled_from([1000, 7]),
    st.booleans(),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(trials, max_size=8))
def test_every_file_is_in_a_row_or_set_apart(tmp_path_factory, trials):
    folder = tmp_path_factory.mktemp("records")
    files = set()
    for index, (arm, seed, lr, samples, broken) in enumerate(trials):
        file = write_record(folder / str(index), arm, seed, day=index, lr=lr, projection_samples=samples)
        if broken:
            file.write_text(json.dumps({"arm": arm}))
        files.add(file.parent)
    board = read_board([folder])
    placed = [place for budget in board.budgets for places in budget.records["places"] for place in places]
    apart = [file.parent for file in board.set_apart["file"]]
    assert len(placed) + len(apart) == len(files)
    assert {*placed, *apart} == files
    for budget in board.budgets:
        assert not budget.records.duplicated(["row", "seed"]).any()
        assert budget.summary["seeds"].sum() == len(budget.records)


class TestFilters:
    @pytest.fixture
    def board(self, tmp_path):
        for seed in (0, 1):
            write_record(tmp_path / f"a{seed}", "pythia", seed, 2.0)
        write_record(tmp_path / "b", "mla", 0, 1.9, kept=1024.0)
        write_record(tmp_path / "c", "mla", 0, 3.0, size="tiny")
        return read_board([tmp_path])

    def arms(self, board):
        return [list(budget.summary["arm"]) for budget in board.budgets]

    def test_rows_pass_or_not(self, board):
        assert self.arms(board.filtered(LeaderboardFilters())) == [["mla", "pythia"], ["mla"]]
        assert self.arms(board.filtered(LeaderboardFilters(min_seeds=2))) == [["pythia"]]
        assert self.arms(board.filtered(LeaderboardFilters(methods=("mla",)))) == [["mla"], ["mla"]]
        assert self.arms(board.filtered(LeaderboardFilters(sizes=("tiny",)))) == [["mla"]]
        other = board.budgets[1].name
        assert self.arms(board.filtered(LeaderboardFilters(budget=other))) == [["mla"], ["mla", "pythia"]]

    def test_the_front_is_that_of_the_rows_shown(self, board):
        assert list(board.budgets[0].summary["on_front"]) == [True, False]
        assert board.filtered(LeaderboardFilters(min_seeds=2)).budgets[0].summary["on_front"].all()

    @pytest.mark.parametrize(
        ("filters", "message"),
        [
            ({"methods": ("mlaa",)}, "did you mean mla"),
            ({"sizes": ("70m",)}, "which no record has"),
            ({"budget": "00000000"}, "budget is '00000000'"),
            ({"min_seeds": 9}, "no row passes"),
        ],
    )
    def test_what_leaves_nothing_is_refused(self, board, filters, message):
        with pytest.raises(ParameterError, match=message):
            board.filtered(LeaderboardFilters(**filters))


def test_the_committed_results_are_all_there():
    files = {file.parent for file in reference_folder().rglob("record.json")}
    board = read_board([reference_folder()])
    placed = {place for budget in board.budgets for places in budget.records["places"] for place in places}
    assert files == placed | {file.parent for file in board.set_apart["file"]}


def test_outputs_elsewhere_are_read_beside_the_committed_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path))
    assert default_folders() == [tmp_path, reference_folder()]
    monkeypatch.delenv("NEWLLM_OUTPUTS")
    assert default_folders() == [reference_folder().parent]


class TestCommands:
    @pytest.fixture
    def outputs(self, tmp_path, monkeypatch) -> Path:
        monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
        monkeypatch.setattr("newllm.commands.leaderboard.write_pictures_where_possible", lambda *given, **named: None)
        for seed in (0, 1):
            write_record(tmp_path / "outputs" / f"a{seed}", "pythia", seed)
        return tmp_path / "outputs"

    def test_the_page_and_the_table(self, outputs, capsys):
        (outputs / "b").mkdir()
        (outputs / "b" / "record.json").write_text("{}")
        assert cli.main(["leaderboard", str(outputs)]) == 0
        shown = capsys.readouterr().out
        assert "mini, 2,000 windows of 128 tokens of sotu, 3 epochs" in shown
        assert "5,000,000" in shown
        assert "Set apart" in shown
        assert "pythia" in (outputs / "leaderboard.html").read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--filter", "seeds=3"], "did you mean min_seeds"),
            (["--filter", "min_seeds=none"], "min_seeds is 'none'"),
            (["--filter", "methods=[mla]"], "which no record has"),
            (["nowhere"], "nowhere is not a folder"),
            (["--output", "page.pdf"], "must end with .html"),
        ],
    )
    def test_what_cannot_be_shown_is_refused_and_nothing_written(self, outputs, arguments, message, capsys):
        folder = [] if arguments[0] == "nowhere" else [str(outputs)]
        assert cli.main(["leaderboard", *folder, *arguments]) == 2
        assert message in capsys.readouterr().out
        assert not (outputs / "leaderboard.html").exists()

    def test_an_empty_folder_says_what_to_do(self, outputs, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        assert cli.main(["leaderboard", str(tmp_path / "empty")]) == 2
        assert "newllm run 02" in capsys.readouterr().out

    def test_parameters_of_two_records(self, outputs, tmp_path, capsys):
        other = write_record(tmp_path / "other", "mla", lr=3e-4).parent
        assert cli.main(["compare-parameters", str(outputs / "a0"), str(other)]) == 0
        assert "0.0003" in capsys.readouterr().out
        assert cli.main(["compare-parameters", str(outputs / "a0"), str(outputs / "a0")]) == 0
        assert "the same parameters" in capsys.readouterr().out
        assert cli.main(["compare-parameters", str(outputs / "a0"), str(tmp_path)]) == 2


def test_differences_from_the_baseline_need_the_losses_of_windows(tmp_path):
    for arm in ("pythia", "mla", "mqa"):
        folder = write_record(tmp_path / arm, arm).parent
        if arm != "mqa":
            losses = [1.0, 2.0, 3.0] if arm == "pythia" else [1.5, 2.5, 3.5]
            scores = {"window_losses": losses, "window_groups": [0, 1, 2]}
            (folder / "evaluation.json").write_text(json.dumps(scores))
    (budget,) = read_board([tmp_path]).budgets
    summary = budget.summary.set_index("arm")
    assert summary.loc["mla", "difference"] == pytest.approx(0.5)
    assert pd.isna(summary.loc["mqa", "difference"])
    # With one seed each nobody knows what another one would give.
    assert summary["verdict"].to_dict() == {"pythia": "", "mla": "too few seeds", "mqa": ""}

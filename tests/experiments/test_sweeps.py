"""Sweeps: what a file may say, and which trials it becomes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.config.errors import ParameterError
from newllm.config.profiles import available_sweeps, load_parameters, profiles, sweep_path
from newllm.experiments.arms import Arm
from newllm.experiments.idle import idle_parameters
from newllm.experiments.sweeps import load_sweep, plan
from tests.experiments.sweep_files import sweep, written


@pytest.mark.parametrize("name", available_sweeps())
def test_shipped_sweeps_can_be_built(name):
    trials = plan(load_sweep(sweep_path(name), {}))
    assert len({(trial.arm, trial.seed, trial.parameters) for trial in trials}) == len(trials) > 1


@pytest.mark.parametrize("name", available_sweeps())
def test_each_arm_of_a_shipped_sweep_can_be_trained_alone(name):
    written_in_the_file = [arm for grid in load_sweep(sweep_path(name), {}).grid for arm in grid["arm"]]
    for arm in written_in_the_file:
        alone = {"arm": [arm]}
        assert plan(load_sweep(sweep_path(name), alone), alone)


def test_a_parameter_of_the_file_may_be_for_the_arms_left_out_but_one_that_is_given_may_not(tmp_path):
    path = written(tmp_path, {"arm": ["pythia", "cascade"], "seed": [0]}, parameters={"stream_lr": 0.1})
    alone = {"arm": ["pythia"]}
    (trial,) = plan(load_sweep(path, alone), alone)
    assert trial.parameters.stream_lr == 0.1
    with pytest.raises(ParameterError, match="stream_lr is given, but does nothing for pythia"):
        plan(load_sweep(path, alone | {"stream_lr": 0.2}), alone | {"stream_lr": 0.2})
    with pytest.raises(ParameterError, match="stream_lr is given, but does nothing for pythia"):
        plan(load_sweep(written(tmp_path, {"arm": ["pythia"], "seed": [0]}, parameters={"stream_lr": 0.1}), {}))


def test_learning_rates_have_a_grid_for_each_arm():
    trials = plan(load_sweep(sweep_path("learning_rates"), {}))
    rates: dict[str, set[float]] = {}
    for trial in trials:
        rate = trial.parameters.stream_lr if trial.arm.reads_stream else trial.parameters.matrix_lr
        assert isinstance(rate, float)
        rates.setdefault(trial.arm.method, set()).add(rate)
    assert {"pythia", "narrow", "mqa", "dproj", "mla", "context", "vdproj", "cascade", "context-kv"} <= set(rates)
    assert min(map(len, rates.values())) >= 3


def test_the_folder_of_sweeps_is_no_profile():
    assert "sweeps" not in profiles()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from(["pythia", "narrow", "mqa"]), min_size=1, unique=True),
    st.lists(st.sampled_from([1e-4, "3e-4", 0.01]), min_size=1, unique=True),
    st.lists(st.integers(0, 5), min_size=1, unique=True),
)
def test_a_grid_becomes_every_combination_once(arms, rates, seeds):
    grid = {"arm": arms, "lr": rates, "seed": seeds}
    trials = plan(sweep([grid, grid | {"lr": rates[:1]}]))
    found = {(trial.arm.name, trial.parameters.lr, trial.seed) for trial in trials}
    assert found == {(arm, float(rate), seed) for arm in arms for rate in rates for seed in seeds}
    assert len(trials) == len(found)
    assert len({trial.folder_name for trial in trials}) == len(rates)
    # What is stopped early has whole tables of some seeds.
    assert [trial.seed for trial in trials] == sorted((trial.seed for trial in trials), key=seeds.index)


def test_settings_of_arms_are_axes_and_those_that_say_what_is_so_anyway_are_left_out_of_the_name():
    trials = plan(sweep({"arm": ["mla", "mla@rotary_dim=8"], "kv_dim": [8, 16], "position": ["rope"], "seed": [0]}))
    assert [trial.arm.name for trial in trials] == [
        "mla@kv_dim=8,position=rope",
        "mla@position=rope",
        "mla@kv_dim=8,position=rope,rotary_dim=8",
        "mla@position=rope,rotary_dim=8",
    ]
    slopes = plan(sweep({"arm": ["mla"], "alibi_slopes_by_head": [True, False], "seed": [0]}))
    assert [trial.arm.name for trial in slopes] == ["mla@alibi_slopes_by_head=true", "mla"]
    (lists,) = plan(sweep({"arm": ["context-kv"], "context_dims": [[20, 12]], "seed": [0]}))
    assert dict(lists.arm.overrides) == {"context_dims": (20, 12)}


@pytest.mark.parametrize(
    ("grid", "changes", "message"),
    [
        (
            {"arm": ["pythia"], "seed": [0], "kv_dmi": [8]},
            {},
            "kv_dmi is neither a parameter of .* nor a setting of py",
        ),
        ({"arm": ["mla"], "seed": [0], "kv_dmi": [8]}, {}, "did you mean kv_dim"),
        ({"arm": ["mla"], "seed": [0], "sampels": [8]}, {}, "did you mean samples"),
        ({"arm": ["mla"], "seed": [0], "kv_dim": [0]}, {}, "kv_dim=0 must be at least 1"),
        ({"arm": ["pythai"], "seed": [0]}, {}, "did you mean 'pythia'"),
        ({"arm": ["pythia"], "seed": [-1]}, {}, "seeds is -1"),
        ({"arm": ["pythia"], "seed": [0], "lr": ["fast"]}, {}, "lr is 'fast'"),
        ({"arm": ["pythia"], "seed": [0]}, {"parameters": {"sampels": 3}}, "did you mean samples"),
        ({"arm": ["pythia"], "seed": [0]}, {"parameters": {"processes": 3}}, "--processes"),
        ({"arm": ["pythia"], "seeds": [0], "seed": [0]}, {}, "the grid's axis seed"),
        ({"arm": ["pythia", "cascade"], "seed": [0], "lr": [0.1]}, {}, "lr does nothing for cascade-oacd"),
        ({"arm": ["pythia"], "seed": [0], "stream_lr": [0.1]}, {}, "stream_lr does nothing for pythia"),
        ({"arm": ["dproj@proj_dim=32"], "seed": [0], "proj_dim": [16]}, {}, "which sets it itself"),
        ({"arm": ["pythia"], "seed": [0]}, {"profile": "smok"}, "profile is 'smok'"),
        (
            {"arm": ["dproj"], "seed": [0], "proj_dim": [40, 37]},
            {},
            "proj_dim is 37, .* rounded to 40: write proj_dim=40",
        ),
        (
            {"arm": ["dproj"], "seed": [0], "proj_dim": [None, 40]},
            {},
            "and dproj-oacd, proj_dim=40, which train the same",
        ),
        (
            {"arm": ["pythia"], "seed": [0]},
            {"parameters": {"stream_lr": 0.5}},
            "stream_lr is given, but does nothing for py",
        ),
        (
            {"arm": ["mla"], "seed": [0], "lr": [1e-3]},
            {"parameters": {"lr": 0.5}},
            "lr is among the parameters and an axis",
        ),
        ({"arm": ["window"], "window": [4, 500], "seed": [0]}, {}, "forget nothing in windows of seq_length=32"),
        ({"arm": ["mla"], "alibi_slopes_by_head": ["nope"], "seed": [0]}, {}, "must be true or false"),
        ({"arm": ["cascade"], "alibi_slope": [0.5], "seed": [0]}, {}, "nor a setting of cascade"),
        ({"arm": ["mla"], "vocab_size": [64], "seed": [0]}, {}, "follows from the tokenizer"),
        (
            {"arm": ["pythia"], "seed": [0]},
            {"parameters": {"micro_batch_size": 4000}},
            "micro_batch_size is 4000, but a step has 8 windows",
        ),
        (
            {"arm": ["pythia"], "seq_length": [32, 128], "seed": [0]},
            {"parameters": {"repeat_distances": [5000]}},
            "repeat_distances holds 5000, .* do not fit into a window of 128",
        ),
        (
            {"arm": ["pythia"], "samples": [64, 8], "seed": [0]},
            {"parameters": {"warmup": 0.1}},
            r"arm 'pythia': warmup is 0.1, but that takes all of training \(1 step\)",
        ),
        ({"arm": ["pythia"], "patience": [1, 4], "epochs": [5], "seed": [0]}, {}, "patience is 4, but training of 5"),
        ({"arm": ["pythia"], "seed": [0]}, {"parameters": {"patience": 5}}, "patience is 5, but training of 1 epoch"),
        (
            {"arm": ["pythia"], "samples": [8, 64], "seed": [0]},
            {"parameters": {"evaluations": 1000}},
            "evaluations is 1000, but a pass has",
        ),
        (
            {"arm": ["pythia"], "seed": [0]},
            {"parameters": {"projection_checkpoint": "gone"}},
            "projection_checkpoint is 'gone', but there is no complete checkpoint",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(grid, changes, message):
    with pytest.raises(ValueError, match=message):
        plan(sweep(grid, **changes))


def test_what_has_an_effect_in_one_trial_is_for_the_sweep():
    given = {"micro_batch_size": 16, "repeat_distances": [8, 100], "evaluations": 4, "patience": 3}
    grid = {"arm": ["pythia"], "batch_size": [8, 64], "seq_length": [32, 256], "epochs": [1, 5], "seed": [0]}
    assert len(plan(sweep(grid, parameters=given))) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"arm": ["pythia"]}}, "^each grid must have the axes arm and seed; seed is missing.$"),
        ({"grid": {"arm": ["pythia"], "seed": []}}, "^the axis seed has no value: give it one or more, such as seed="),
        ({"grid": {"arm": ["pythia"], "seed": [0, 0]}}, "^the axis seed has the value 0 twice"),
        ({"gird": {}}, r"gird is not a parameter of a sweep \(in mine.yaml\); did you mean grid"),
        ({"notebook": "02_main_trainin"}, "did you mean 02_main_training"),
        ({"notebook": "01_projection_training"}, "a notebook that compares arms"),
        ({"notebook": "05_reversal_curse"}, "and nothing else"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(tmp_path, changes, message):
    path = written(tmp_path, **({"grid": {"arm": ["pythia"], "seed": [0]}} | changes))
    with pytest.raises(ParameterError, match=message):
        load_sweep(path, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"lr": [0.1, "abc"]},
            r"^lr is \[0.1,abc\], but lists are for the axes of this sweep \(arm, matrix_lr, seed, kv_dim\)",
        ),
        ({"lr": []}, r"^lr is \[\], but lists are for the axes"),
        ({"matrix_lr": []}, "^the axis matrix_lr has no value: give it one or more, such as matrix_lr="),
        ({"matrix_lr": [0.1, 0.1]}, "^the axis matrix_lr has the value 0.1 twice: leave one out"),
        ({"matrix_lr": [0.1, "abc"]}, "^matrix_lr is 'abc', but it must be a number"),
        ({"arm": []}, "^the axis arm has no value"),
        ({"prompts": []}, r"^prompts is \[\], but it must have at least 1 item"),
        ({"seeds": [1, 2]}, "the grid's axis seed gives the seeds"),
    ],
)
def test_values_that_a_sweep_cannot_take_are_told_its_axes(tmp_path, given, message):
    grid = {"arm": ["pythia"], "seed": [0], "matrix_lr": [0.1]}
    path = written(tmp_path, [grid, {"arm": ["mla"], "seed": [0], "kv_dim": [8]}])
    with pytest.raises(ParameterError, match=message) as caught:
        plan(load_sweep(path, given))
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


def test_a_list_for_a_parameter_that_takes_one_is_no_axis(tmp_path):
    path = written(tmp_path, {"arm": ["pythia"], "seed": [0]})
    (trial,) = plan(load_sweep(path, {"prompts": ["One", "Two"]}))
    assert trial.parameters.prompts == ("One", "Two")
    with pytest.raises(ParameterError, match=r"^lr is \[0.1,0.2\], but lists are for the axes"):
        load_sweep(written(tmp_path, {"arm": ["pythia"], "seed": [0]}, parameters={"lr": [0.1, 0.2]}), {})


def test_values_given_on_the_command_line_replace_axes_and_parameters(tmp_path):
    path = written(tmp_path, [{"arm": ["pythia"], "seed": [0, 1], "lr": [0.1]}, {"arm": ["mla"], "seed": [2]}])
    trials = plan(load_sweep(path, {"seed": 7, "lr": [0.2, 0.3], "samples": 65, "profile": "smoke"}))
    assert [(trial.arm.name, trial.seed, trial.parameters.lr) for trial in trials] == [
        ("pythia", 7, 0.2),
        ("pythia", 7, 0.3),
        ("mla", 7, 1e-4),
    ]
    assert {trial.parameters.samples for trial in trials} == {65}


def test_arms_given_on_the_command_line_choose_among_several_grids(tmp_path):
    grids = [
        {"arm": ["pythia", "mla"], "seed": [0], "lr": [0.1]},
        {"arm": ["cascade"], "seed": [0], "stream_lr": [0.2]},
    ]
    path = written(tmp_path, grids)
    assert {trial.arm.name for trial in plan(load_sweep(path, {"arm": "mla"}))} == {"mla"}
    both = plan(load_sweep(path, {"arm": ["cascade", "pythia"], "lr": [0.3, 0.4]}))
    assert [(trial.arm.name, trial.axes) for trial in both] == [
        ("pythia", ("lr",)),
        ("pythia", ("lr",)),
        ("cascade-oacd", ("stream_lr",)),
    ]
    with pytest.raises(ParameterError, match="mqa is in none of the sweep's 2 grids, which have pythia, mla, cascade"):
        load_sweep(path, {"arm": ["mqa", "mla"]})
    with pytest.raises(ParameterError, match="the axis arm has the value mla twice: leave one out"):
        load_sweep(path, {"arm": ["mla", "mla"]})
    with pytest.raises(ParameterError, match="stream_lr is given, but it is an axis of other arms than mla: leave it"):
        load_sweep(path, {"arm": ["mla"], "stream_lr": [0.1]})
    alone = written(tmp_path, grids[0])
    assert {trial.arm.name for trial in plan(load_sweep(alone, {"arm": "mqa"}))} == {"mqa"}


@pytest.mark.parametrize("value", [0.1, 1e-3, None])
def test_a_given_parameter_that_no_arm_uses_is_refused_whatever_its_value(tmp_path, value):
    """Also where it is the file's own, or the profile's: trials would lie in another folder, and be the same."""
    given = {"arm": ["pythia"], "stream_lr": value}
    path = written(tmp_path, {"arm": ["pythia", "cascade"], "seed": [0]}, parameters={"stream_lr": 0.1})
    with pytest.raises(ParameterError, match="stream_lr is given, but does nothing for pythia"):
        plan(load_sweep(path, given), given)


@pytest.mark.parametrize("name", ["..yaml", "...yaml"])
def test_a_file_without_a_name_is_refused_as_its_folder_would_be_that_of_all_outputs(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(ParameterError, match="has no name that its folder of results could have: rename the file"):
        sweep_path(str(tmp_path / name))


def test_idle_parameters_are_those_of_another_way_of_training():
    def idle(arm, **given):
        parameters = load_parameters("02_main_training", "smoke", {"arms": [arm], "seeds": [0], **given})
        return idle_parameters(Arm.parse(arm), parameters)

    assert {"stream_lr", "projection_lr", "proj_dim"} <= idle("pythia")
    assert "projection_lr" not in idle("dproj-oacd")
    assert "proj_dim" not in idle("dproj-random")
    assert {"lr", "batch_size", "projection_lr"} <= idle("cascade")
    assert not {"epochs", "patience", "clip", "stream_lr", "collection_chunk"} & idle("cascade")
    # Where the embedding or the recurrences train, no contexts are collected.
    for arm in ("cascade@freeze_embedding=false", "cascade-end-to-end"):
        assert {"collection_chunk", "collection_tolerance"} <= idle(arm)
    assert "collection_chunk" not in idle("cascade-frozen-embedding")
    # Who begins with a checkpoint trains no projection.
    begun = idle("dproj-oacd", projection_checkpoint="recurrences/projection")
    assert {"projection_lr", "max_iterations", "projection_samples"} <= begun
    assert not {"lr", "proj_dim"} & begun
    assert "stream_projection_lr" in idle("cascade", projection_checkpoint="recurrences/projection")

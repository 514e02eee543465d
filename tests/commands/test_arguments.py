"""What the commands refuse at once, what they say alone, and how they end when they are interrupted."""

import random
import re
import string

import pytest

from newllm import cli
from newllm.commands import models
from newllm.commands.run import _without_what_is_idle
from newllm.commands.shared import full_name, read_assignments
from newllm.config.errors import ParameterError
from newllm.config.notebooks import NOTEBOOKS
from newllm.config.profiles import load_parameters
from newllm.experiments.idle import refuse_in_vain
from newllm.experiments.planning import check_before_work
from newllm.files import project_root

FUZZED = 400


def test_the_command_alone_says_in_five_lines_what_one_can_do(capsys):
    assert cli.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize("declared", cli.COMMANDS)
def test_every_command_has_help_with_examples(declared, capsys):
    name = declared.__name__.rpartition(".")[2].replace("_", "-")
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    shown = capsys.readouterr().out
    assert f"examples:\n  newllm {name}" in shown
    for before, names, after in re.findall(r"(outputs/reference/[^\s{]*)\{([^}]*)\}(\S*)", shown):
        assert all((project_root() / f"{before}{one}{after}").is_dir() for one in names.split(",")), "it is not there"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_every_command(shell, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--print-completion", shell])
    shown = capsys.readouterr().out
    assert all(declared.__name__.rpartition(".")[2].replace("_", "-") in shown for declared in cli.COMMANDS)
    assert "--profile" in shown


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("newllm ")


def test_an_interrupted_command_ends_in_one_line(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "main", interrupt)
    assert cli.main(["models", "--size", "tiny"]) == 130
    assert [line[:12] for line in capsys.readouterr().out.splitlines() if line] == ["Interrupted:"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "02", "-p", "arms=[pythi]"], "did you mean 'pythia'?"),
        (["run", "02", "-p", "lr=1e-3", "-p", "lr=1e-4"], "lr is given twice"),
        (["run", "02", "-p", "profile=gpu"], "newllm run chooses it by --profile"),
        (["run", "02", "-p", "lr=2020-13-45"], "lr is '2020-13-45'"),
        (["run", "02", "-p", "samples=010"], "samples is '010'"),
        (["run", "02", "-p", "samples=1:30"], "samples is '1:30'"),
        (["run", "02", "-p", 'seeds=!!float "-"'], "seeds is"),
        (["run", "02", "-p", f"seeds={'[' * 500}"], "too many brackets"),
        (["run", "08", "-p", "attended_position=1000000"], "2048"),
        (["run", "run.py.ipynb"], "is not one of the notebooks"),
        (["models", "mqq"], "did you mean mqa?"),
        (["leaderboard", "--filter", "min_seed=3"], "did you mean min_seeds?"),
        (["evaluate", "EleutherAI/pythia-70m", "--limit", "3"], "belong to --tasks"),
        (["sweep", "learning_rate"], "did you mean learning_rates?"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(arguments, said, capsys):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().out
    assert said in shown
    assert len(shown.splitlines()) == 1


def test_notebooks_go_by_number_name_or_path():
    assert {full_name(name) for name in ("2", "02", "02_main_training", "notebooks/02_main_training.ipynb")} == {
        "02_main_training"
    }


def checked(notebook, **given):
    parameters = load_parameters(notebook, "cpu", read_assignments([f"{key}={value}" for key, value in given.items()]))
    check_before_work(parameters)
    return parameters


def test_one_parameter_is_enough():
    assert checked("02_main_training", samples=200).projection_samples == 200
    assert checked("02_main_training", seeds="0", arms="pythia,mla").arms == ("pythia", "mla")
    one = checked("08_context_kv", arms="[context-kv@context_dims=[256,128],chunk_size=50]")
    assert one.arms == (one.base_arm,) == ("context-kv@context_dims=[256,128],chunk_size=50",)
    assert checked("09_cascade", arms="[cascade@num_blocks=4]").base_arm == "cascade@num_blocks=4"


def test_settings_that_just_fit_into_a_window_are_taken():
    arms = "[window@window=250, context-kv@chunk_size=255]"
    assert checked("02_main_training", arms=arms, stream_tokens=9000).seq_length == 256


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arms": "mla@kv_dimm=3"}, "did you mean 'kv_dim'"),
        ({"arms": "cascade", "embedding_source": "/nowhere"}, "no such file or folder"),
        ({"arms": "cascade", "embedding_source": "random"}, "must come from a trained model"),
        ({"arms": "context-kv", "stream_tokens": "50"}, "stream_tokens=50 must be larger"),
        ({"micro_batch_size": "100", "batch_size": "8"}, "micro_batch_size is 100, but a step has 8 windows"),
        ({"repeat_distances": "[64, 100000]"}, "repeat_distances holds 100000, but a passage of 32 tokens"),
        (
            {"arms": "window@window=251"},
            "which is pythia: take a window of at most 250, or a seq_length of at least 257",
        ),
        ({"arms": "window", "seq_length": "32", "position_bands": "16"}, "take a window of at most 26, or"),
        ({"arms": "context-kv@chunk_size=256", "stream_tokens": "9000"}, "chunk_size=256 leaves no whole chunk"),
        ({"arms": "[dproj]", "proj_dim": "37"}, "proj_dim is 37, but there it is rounded to 40"),
        ({"arms": "cascade", "gradient_checkpointing": "true"}, "has no blocks to make activations of again"),
        ({"samples": "1000000000"}, "12.2 MB of text"),
        ({"source": "pile", "samples": "1000000000000", "val_samples": "9", "test_samples": "9"}, "the disk has"),
        ({"source": "pile"}, "not read to its end: give a number"),
        ({"pretrained": "./gone"}, "there is no folder ./gone"),
        ({"pretrained": "[./gone, ./away]"}, "there is no folder ./gone"),
        ({"pretrained": "[tests/models, ./tests/models]"}, "two would have the row pretrained:tests/models"),
        ({"pretrained": "EleutherAI/pythia-70m"}, "give tokenizer the same value"),
        ({"tokenizer": "gone.json"}, "there is no such file"),
        ({"source": "text", "text_files": "gone/*.txt"}, "no file matches"),
        ({"output_folder": "README.md"}, "README.md cannot be written"),
        ({"arms": "pythia@hidden_size=1000000,num_attention_heads=4"}, "of memory"),
    ],
)
def test_what_would_fail_late_is_refused_early(given, said):
    with pytest.raises(ParameterError, match=said) as caught:
        checked("02_main_training", **given)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arms": "pythia", "stream_lr": "0.5"}, "^stream_lr is given, but does nothing for pythia: leave it out"),
        ({"arms": "[pythia, mla]", "max_iterations": "7"}, "does nothing for pythia or mla"),
        ({"arms": "pythia", "embedding_source": "/etc/passwd"}, "embedding_source is given, but does nothing"),
        ({"arms": "dproj-random", "projection_lr": "1"}, "does nothing for dproj-random"),
        ({"arms": "dproj@proj_dim=32", "proj_dim": "40"}, "proj_dim is given, but does nothing"),
    ],
)
def test_what_is_given_and_does_nothing_is_refused_and_what_the_profile_says_is_not(given, said):
    parameters = load_parameters("02_main_training", "smoke", given)
    with pytest.raises(ParameterError, match=said):
        refuse_in_vain(parameters, given)
    usual = load_parameters("02_main_training", "smoke", {})
    as_papermill = usual.model_dump(mode="json", exclude={"profile"}) | {"arms": given["arms"], "samples": 32}
    refuse_in_vain(load_parameters("02_main_training", "smoke", as_papermill), as_papermill)
    refuse_in_vain(parameters, dict.fromkeys(given))


def test_what_lends_its_embedding_uses_what_it_is_given():
    given = {"arms": ["cascade"], "lr": 1e-3, "batch_size": 4, "stream_lr": 1e-2, "max_iterations": None}
    refuse_in_vain(load_parameters("02_main_training", "smoke", given), given)


def test_several_notebooks_leave_out_what_only_some_of_them_use(capsys):
    given = {"max_iterations": "7"}
    planned = [load_parameters(notebook, "smoke", given) for notebook in ("02_main_training", "04_position_encodings")]
    kept, given_of = _without_what_is_idle(planned, given)
    assert [each.max_iterations for each in kept] == [
        7,
        load_parameters("04_position_encodings", "smoke", {}).max_iterations,
    ]
    assert given_of == {"02_main_training": given, "04_position_encodings": {}}
    with pytest.raises(ParameterError, match="max_iterations is given, but does nothing for"):
        _without_what_is_idle(planned[1:], given)


def random_value(generator):
    """A value as somebody could write it, most of them wrong."""
    pieces = (
        *("0", "-1", "1e-4", "010", "1:30", "2020-13-45", "true", "no", "null", "", "nan", ".inf", "1e999", "[", "]]"),
        *(
            "[0, 1]",
            "[a, [b]]",
            "{a: 1}",
            "{a: 1, a: 2}",
            '!!float "-"',
            "&a x",
            "*a",
            "'",
            '"x',
            "\x00",
            "\ud800",
            "💥",
        ),
        *(
            "pythia",
            "mla@kv_dim=8",
            "mla@kv_dim=",
            "context-kv@context_dims=[8,8],chunk_size=4",
            "dproj-oacd-x",
            "cascade",
        ),
        "".join(generator.choices(string.printable, k=generator.randrange(12))),
        str(generator.randrange(-5, 10**9)),
    )
    return "".join(generator.choices(pieces, k=generator.choice((1, 1, 1, 2, 3))))


def test_any_parameters_are_valid_or_refused_in_sentences():
    generator = random.Random(0)
    refused = 0
    for _ in range(FUZZED):
        notebook = generator.choice(sorted(NOTEBOOKS))
        keys = generator.sample([*NOTEBOOKS[notebook].model_fields, "arms", "sampels"], k=generator.randrange(1, 4))
        keys = [key for key in dict.fromkeys(keys) if key not in ("output_folder", "text_files")]
        assignments = [f"{key}={random_value(generator)}" for key in keys]
        try:
            check_before_work(load_parameters(notebook, "smoke", read_assignments(assignments)))
        except ParameterError as error:
            refused += 1
            assert all(len(line) > 10 for line in str(error).split("\n")), assignments
    assert 0 < refused < FUZZED

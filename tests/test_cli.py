import argparse
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch

from newllm import cli
from newllm.commands import models, shared
from newllm.commands.arguments.run import planned_runs
from newllm.config.errors import ParameterError
from newllm.config.profiles import load_parameters
from newllm.notebook import first_cell
from newllm.runs.folder import notebook_run
from newllm.runs.records_table import load_records

RECORD_CELL = """
import os, sys
from newllm.runs.folder import Run, open_run
from newllm.runs.record import Record
run = open_run(parameters)
part = Run(run.folder / "dproj-oacd", {**run.identity, "seed": parameters.seeds[0]})
print("interpreter", sys.executable)
if not part.is_finished:
    part.start()
    with (run.folder / "times").open("a") as file:
        file.write("x")
    part.finish(1.0, Record.model_validate({
        "notebook": parameters.notebook, "profile": parameters.profile, "arm": "dproj-oacd", "method": "dproj",
        "size": parameters.size, "seed": parameters.seeds[0], "parameters": parameters.identity(),
        "parameter_count": 12345,
        "metrics": {"perplexity": 42.5, "bits_per_byte": parameters.projection_lr},
        "cache": {"tokens": 8, "dtype": "float32", "measured_bytes": 800, "formula_bytes": 800, "bytes_per_token": 100},
        "certificate": {"passed": True, "max_change": 0.0}, "continuations": [], "duration_seconds": 1.0}))
print("a model writes \\x1b[31m and goes back\\rto here")
display("a table of the notebook")
assert not os.environ.get("BREAK"), "broken on purpose"
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Put a toy in the place of notebook 01 and send outputs to a folder of the test."""
    parameters_cell = nbformat.v4.new_code_cell(
        'profile = "smoke"\nprojection_lr = None\nseeds = None\noutput_folder = None'
    )
    parameters_cell.metadata["tags"] = ["parameters"]
    cells = [
        nbformat.v4.new_code_cell(first_cell.FIRST_CELL),
        parameters_cell,
        nbformat.v4.new_code_cell(
            "from newllm.notebook.parameters import from_notebook\n"
            'parameters = from_notebook("01_projection_training", globals())'
        ),
        nbformat.v4.new_code_cell(RECORD_CELL),
    ]
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "01_projection_training.ipynb")
    monkeypatch.setattr(shared, "notebooks_folder", lambda: folder)
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder_of(**given) -> Path:
    return notebook_run(load_parameters("01_projection_training", "smoke", given)).folder


def test_a_run_is_recorded_skipped_and_run_again_when_asked(notebook, capsys):
    assert cli.main(["run", "01", "--profile", "smoke", "-p", "projection_lr=1e-4", "-p", "seeds=[3]"]) == 0
    folder = folder_of(projection_lr=1e-4, seeds=[3])
    records = load_records(notebook / "outputs")
    assert list(records["bits_per_byte"]) == [1e-4]
    assert list(records["folder"]) == [folder / "dproj-oacd"]
    executed = nbformat.read(folder / "01_projection_training.ipynb", as_version=4)
    assert f"interpreter {sys.executable}" in str(executed.cells)
    assert not (folder / "unfinished.ipynb").exists()
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("dproj-oacd", "12,345", "42.5", "100"))
    assert "none was run before" in shown
    assert shown.count("42.5") == 1  # once, at the end
    assert "a table of the notebook" not in shown
    assert r"writes \x1b[31m and goes back\x0dto here" in shown

    assert cli.main(["run", "01", "--profile", "smoke", "-p", "projection_lr=1e-4", "-p", "seeds=[3]"]) == 0
    shown = capsys.readouterr().out
    assert "is finished" in shown
    assert "42.5" in shown
    assert (folder / "times").read_text() == "x"

    assert cli.main(["run", "01", "--profile", "smoke", "-p", "projection_lr=1e-4", "-p", "seeds=[3]", "--rerun"]) == 0
    assert "01_projection_training starts" in capsys.readouterr().out
    assert (folder / "times").read_text() == "x"  # deleted and written again
    assert len(load_records(notebook / "outputs")) == 1


def test_a_failing_notebook_is_reported_and_taken_up(notebook, capsys, monkeypatch):
    monkeypatch.setenv("BREAK", "1")
    assert cli.main(["run", "01", "--profile", "smoke"]) == 1
    shown = capsys.readouterr().out
    assert "AssertionError: broken on purpose" in shown
    assert "Failed: 01_projection_training" in shown
    assert "42.5" in shown  # the part that was finished
    assert (folder_of() / "unfinished.ipynb").is_file()
    monkeypatch.delenv("BREAK")
    assert cli.main(["run", "01", "--profile", "smoke"]) == 0
    assert "goes on" in capsys.readouterr().out
    assert (folder_of() / "times").read_text() == "x"  # the finished part was not run again
    assert not (folder_of() / "unfinished.ipynb").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["01", "-p", "proj_dim=0"], "proj_dim is 0"),
        (["01", "-p", "projection_lr=true"], "projection_lr is true"),
        (["01", "-p", "sampels=3"], "did you mean samples?"),
        (["01", "-p", "samples"], "-p key=value"),
        (["01", "-p", "samples=[1"], "samples is '[1'"),
        (["11"], "11 is not one of the notebooks"),
    ],
)
def test_nothing_is_written_before_every_parameter_is_right(notebook, arguments, message, capsys):
    assert cli.main(["run", *arguments]) == 2
    assert message in capsys.readouterr().out
    assert not (notebook / "outputs").exists()


def test_a_folder_that_holds_something_else_is_refused(notebook, capsys):
    (notebook / "mine").mkdir()
    (notebook / "mine" / "letter.txt").write_text("dear")
    assert cli.main(["run", "01", "--profile", "smoke", "-p", f"output_folder={notebook / 'mine'}"]) == 2
    assert "not a run's" in capsys.readouterr().out


def test_several_notebooks_take_the_parameters_they_know(monkeypatch):
    monkeypatch.setattr(shared, "available_notebooks", lambda: ["01_projection_training", "02_main_training"])
    options = argparse.Namespace(notebooks=["01", "2"], profile="smoke", rerun=False)
    options.parameters = ["lr=0.5", "samples=70"]
    first, second = planned_runs(options)
    assert (first.identity()["samples"], second.identity()["samples"], second.identity()["lr"]) == (70, 70, 0.5)
    options.parameters = ["llr=0.5"]
    with pytest.raises(ParameterError, match="did you mean lr"):
        planned_runs(options)


def test_models_are_shown_in_one_table(capsys):
    assert cli.main(["models", "mqa", "cascade", "--size", "tiny", "--contexts", "12", "--steps", "1"]) == 0
    shown = capsys.readouterr().out
    rows = [
        line.split() for line in shown.splitlines() if line.split() and line.split()[0] in ("model", "mqa", "cascade")
    ]
    header, mqa, cascade = rows[-3:]
    assert (header[:2], header[-2:]) == (["model", "parameters"], ["at", "12"])
    assert mqa[:4] == ["mqa", "153,152", "64", "256"]
    assert {"75.0%", "yes"} <= set(mqa)
    assert {"100.0%", "320", "yes"} <= set(cascade)


def test_the_table_of_models_says_in_a_file_what_it_was_measured_with(tmp_path):
    output = tmp_path / "models.csv"
    assert cli.main(["models", "mqa", "--size", "tiny", "--contexts", "--output", str(output)]) == 0
    (row,) = pd.read_csv(output).to_dict("records")
    assert (row["model"], row["size"], row["threads"]) == ("mqa", "tiny", torch.get_num_threads())
    assert "cpu_count" in row["machine"]


def test_a_model_that_fails_its_certificate_fails_the_command(monkeypatch, capsys):
    failed = pd.DataFrame([{"model": "mqa", "certificate": False}])
    monkeypatch.setattr(models, "survey", lambda *given, **settings: failed)
    assert cli.main(["models", "mqa"]) == 1
    assert cli.main(["models", "mqa", "--contexts"]) == 1


def test_an_unknown_model_is_refused(capsys):
    assert cli.main(["models", "mqq", "--size", "tiny"]) == 2
    assert "did you mean mqa" in capsys.readouterr().out

import json
import logging
import math
import os
from dataclasses import dataclass

import numpy
import pandas
import plotly.graph_objects as graph_objects
import plotly.io
import pytest

from newllm.config.profiles import load_parameters
from newllm.files import write_atomically
from newllm.runs import pictures
from newllm.runs.contents import why_unfinished
from newllm.runs.folder import Run, earlier_seconds, finished_runs, open_run
from newllm.runs.lock import RunError
from newllm.runs.pictures import draw_pictures, save_figure
from newllm.runs.record import Record
from newllm.runs.records_table import load_records
from newllm.runs.seal import read_seal


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def record(arm="pythia", seed=0, perplexity=30.0, **changes):
    fields = {
        "notebook": "02_main_training",
        "profile": "smoke",
        "arm": arm,
        "method": arm.partition("-")[0],
        "size": "tiny",
        "seed": seed,
        "parameters": {"lr": 1e-4},
        "parameter_count": 1000,
        "metrics": {"perplexity": perplexity, "bits_per_byte": 2.0},
        "cache": {
            "tokens": 8,
            "dtype": "float32",
            "measured_bytes": 800,
            "formula_bytes": 800,
            "bytes_per_token": 100.0,
        },
        "certificate": {"passed": True, "max_change": 0.0},
        "continuations": [{"prompt": "The", "text": " state"}],
        "duration_seconds": 3.5,
    }
    return Record.model_validate({**fields, **changes})


class TestRecord:
    def test_survives_the_disk(self, tmp_path):
        run = Run(tmp_path / "run", {"seed": 0})
        run.start()
        run.finish(3.5, record())
        assert run.record() == record(provenance=run.record().provenance)

    def test_is_refused_without_a_passed_certificate(self):
        with pytest.raises(ValueError, match="only with a passed causality certificate"):
            record(certificate={"passed": False, "max_change": 0.3})

    def test_takes_the_reports_of_the_evaluation_as_they_are(self):
        @dataclass
        class Certificate:
            passed: bool = True
            max_change: float = 1e-9
            checks: tuple = ()

        assert record(certificate=Certificate()).certificate.max_change == 1e-9

    def test_says_where_it_comes_from(self):
        provenance = record().provenance
        assert provenance.commit is None or len(provenance.commit) == 40
        assert {"python", "torch", "transformers"} <= set(provenance.versions)
        assert provenance.machine["cpu_count"] == os.cpu_count()
        assert os.uname().nodename not in provenance.model_dump_json()

    def test_an_infinite_perplexity_is_null_in_strict_json(self, tmp_path):
        run = Run(tmp_path / "run", {})
        run.start()
        run.finish(1, record(perplexity=math.inf))
        stored = json.loads((run.folder / "record.json").read_text(), parse_constant=pytest.fail)
        assert stored["metrics"]["perplexity"] is None
        assert run.record().metrics["perplexity"] is None


class TestRun:
    def test_goes_from_new_to_interrupted_to_finished(self, tmp_path):
        run = Run(tmp_path / "run", {"seed": 0})
        assert (run.is_started, run.is_finished, run.folder.exists()) == (False, False, False)
        run.start()
        assert (run.is_started, run.is_finished) == (True, False)
        again = Run(tmp_path / "run", {"seed": 0})
        assert (again.is_started, again.is_finished) == (True, False)
        again.finish(1.0)
        assert Run(tmp_path / "run", {"seed": 0}).is_finished

    def test_a_folder_of_another_run_is_refused(self, tmp_path):
        Run(tmp_path / "run", {"seed": 0, "lr": 1.0}).start()
        with pytest.raises(RunError, match="another lr;"):
            Run(tmp_path / "run", {"seed": 0, "lr": 2.0})

    def test_a_folder_with_a_strangers_files_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "letter.txt").write_text("dear")
        with pytest.raises(RunError, match="not a run's"):
            Run(tmp_path, {})
        assert (tmp_path / "letter.txt").read_text() == "dear"

    def test_the_notebooks_folder_follows_the_parameters(self, outputs):
        first = open_run(load_parameters("02_main_training", "smoke", {}))
        other = open_run(load_parameters("02_main_training", "smoke", {"lr": 1.0}))
        again = open_run(load_parameters("02_main_training", "smoke", {}))
        assert first.folder == again.folder != other.folder
        assert first.folder.parent == outputs / "02_main_training"
        assert (first.folder / "parameters.yaml").is_file()

    def test_rerun_deletes_results_and_keeps_the_notebook(self):
        run = open_run(load_parameters("02_main_training", "smoke", {}))
        part = Run(run.folder / "pythia-0", {"seed": 0})
        part.start()
        part.finish(1.0, record())
        run.finish(2.0)
        run.write_text("notebook.ipynb", "{}")
        assert open_run(load_parameters("02_main_training", "smoke", {})).is_finished
        again = open_run(load_parameters("02_main_training", "smoke", {"rerun": True}))
        assert not again.is_finished
        assert not part.folder.exists()
        assert (run.folder / "notebook.ipynb").is_file()

    def test_what_is_only_begun_in_its_folder_is_no_part_of_a_finished_run(self):
        run = open_run(load_parameters("02_main_training", "smoke", {}))
        for name in ("pythia-0", "mla-0"):
            Run(run.folder / name, {"arm": name}).start()
        Run(run.folder / "pythia-0", {"arm": "pythia-0"}).finish(1.0, record())
        run.finish(2.0)
        assert read_seal(run.folder).trials == ("pythia-0",)
        assert why_unfinished(run.folder) is None

    def test_a_run_that_was_started_is_not_replaced_by_one_from_elsewhere(self, tmp_path):
        finished = Run(tmp_path / "a" / "trial", {"lr": 1.0})
        finished.start()
        finished.finish(3.0)
        started = Run(tmp_path / "b" / "trial", {"lr": 1.0})
        started.start()
        assert not started.take_over(finished_runs(tmp_path))
        assert not started.is_finished
        taken = Run(tmp_path / "c" / "trial", {"lr": 1.0})
        assert taken.take_over(finished_runs(tmp_path))
        assert taken.is_finished
        assert not Run(tmp_path / "d" / "trial", {"lr": 2.0}).take_over(finished_runs(tmp_path))

    def test_what_a_killed_writer_left_is_gone_at_the_next_start(self, tmp_path):
        run = Run(tmp_path / "run", {})
        run.start()
        left = [run.folder / ".partial-7-run.json", run.folder / "tables" / ".partial-7-arms.csv"]
        for path in left:
            path.parent.mkdir(exist_ok=True)
            path.write_text("{")
        with Run(tmp_path / "run", {}).work():
            assert not any(path.exists() for path in left)

    def test_a_table_is_a_csv_file_among_the_run_s(self, tmp_path):
        run = Run(tmp_path / "run", {})
        run.save_table(pandas.DataFrame({"arm": ["a,b"], "value": [0.25]}, index=[7]), "numbers")
        stored = pandas.read_csv(tmp_path / "run" / "tables" / "numbers.csv")
        assert stored.to_dict("records") == [{"arm": "a,b", "value": 0.25}]

    def test_numpy_values_and_paths_are_json(self, tmp_path):
        run = Run(tmp_path / "run", {})
        values = {"a": numpy.float32(0.5), "b": numpy.arange(2), "c": tmp_path, "d": float("nan"), "e": numpy.int64(3)}
        stored = json.loads(run.write_json("values.json", values).read_text())
        assert stored == {"a": 0.5, "b": [0, 1], "c": str(tmp_path), "d": None, "e": 3}


def test_a_writer_killed_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "value.json", "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_can_be_read_by_those_who_can_read_other_files(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    path = write_atomically(tmp_path / "value.json", "{}")
    assert path.stat().st_mode == (tmp_path / "other.json").stat().st_mode


class TestLoadRecords:
    @pytest.fixture
    def frame(self, tmp_path):
        for arm, seed, perplexity in (("pythia", 0, 30.0), ("pythia", 1, 34.0), ("dproj-oacd", 0, 20.0)):
            part = Run(tmp_path / f"{arm}-{seed}", {"arm": arm, "seed": seed})
            part.start()
            part.finish(1.0, record(arm, seed, perplexity))
        return load_records(tmp_path)

    def test_one_row_a_record(self, frame):
        assert list(frame["arm"]) == ["dproj-oacd", "pythia", "pythia"]
        assert list(frame["perplexity"]) == [20.0, 30.0, 34.0]
        assert set(frame["kv_bytes_per_token"]) == {100.0}

    def test_an_unreadable_record_is_left_out_with_a_warning(self, frame, tmp_path, caplog):
        (tmp_path / "pythia-0" / "record.json").write_text('{"perplexity": 1.0}')
        with caplog.at_level(logging.WARNING):
            assert len(load_records(tmp_path)) == len(frame) - 1
        assert "left out" in caplog.text

    def test_no_records_are_an_empty_table(self, tmp_path):
        assert load_records(tmp_path / "nowhere").empty

    def test_a_folder_may_be_named_by_a_text(self, frame, tmp_path):
        assert list(load_records(str(tmp_path))["folder"]) == list(frame["folder"])


class TestFigures:
    @pytest.fixture
    def figure(self):
        return graph_objects.Figure(graph_objects.Scatter(y=numpy.arange(3.0)))

    def test_a_page_works_offline_and_the_data_come_back(self, figure, tmp_path):
        save_figure(figure, tmp_path / "figures", "losses")
        page = (tmp_path / "figures" / "losses.html").read_text()
        assert 'src="plotly.min.js"' in page
        assert "https://cdn" not in page
        assert (tmp_path / "figures" / "plotly.min.js").is_file()
        assert len(page) < 50_000
        assert plotly.io.from_json((tmp_path / "figures" / "losses.json").read_text()) == figure

    def test_a_picture_is_drawn_once_for_each_version_of_a_figure(self, figure, tmp_path, monkeypatch):
        drawn = []

        def draw(figures, paths, scale):
            drawn.extend(paths)
            for path in paths:
                path.write_bytes(b"picture")

        monkeypatch.setattr(pictures, "write_pictures", draw)
        save_figure(figure, tmp_path / "figures", "losses")
        draw_pictures(tmp_path)
        draw_pictures(tmp_path)
        assert len(drawn) == 1
        save_figure(figure, tmp_path / "figures", "losses")
        draw_pictures(tmp_path)
        assert len(drawn) == 2


def test_the_newest_finished_run_tells_how_long_the_next_takes():
    assert earlier_seconds("02_main_training", "smoke") is None
    for index, (lr, seconds) in enumerate([(0.1, 10.0), (0.2, 20.0)]):
        run = open_run(load_parameters("02_main_training", "smoke", {"lr": lr}))
        run.finish(seconds)
        os.utime(run.folder / "finished.json", (index, index))
    open_run(load_parameters("02_main_training", "smoke", {"lr": 0.3}))
    assert earlier_seconds("02_main_training", "smoke") == 20.0
    assert earlier_seconds("02_main_training", "cpu") is None

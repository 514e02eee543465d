import shutil
from pathlib import Path

import pandas as pd
import pytest

from newllm.config.errors import ParameterError
from newllm.experiments import comparison, reuse
from newllm.experiments.comparison import compare
from newllm.experiments.scoring import EVALUATION_FILE, HISTORY_FILE
from newllm.files import digest_of_file, project_root, read_json, reference_folder, write_json
from newllm.publication import planning, reference
from newllm.publication.leaderboard import read_board
from newllm.publication.planning import KEPT_FILES
from newllm.publication.published import LEADING_SWEEP, RATES_SWEEP
from newllm.runs import parts
from newllm.runs.contents import why_unfinished
from newllm.runs.folder import SWEEPS_FOLDER, Run
from newllm.runs.parts import Part, do_part
from newllm.runs.publishing import PublishingError, plan_publication
from newllm.runs.record import RECORD_FILE, read_record
from newllm.runs.records_table import load_records
from tests.comparison_setup import settings
from tests.publication.board_records import write_record


def test_reference_records_are_of_one_comparison():
    """Rows of a table are compared, so data, budget and size must be the same."""
    board = read_board([reference_folder() / SWEEPS_FOLDER / LEADING_SWEEP])
    assert board.set_apart.empty
    assert len(board.budgets) <= 1
    for budget in board.budgets:
        assert set(budget.summary["arm"]) == set(budget.records["arm"]), "an arm with other settings has its own row"
        records = budget.records
        assert (records["places"].map(len) == 1).all()
        assert (records["certificate"] < 1e-9).all()
        assert (records["kv_bytes"] == records["kv_formula_bytes"]).all()
        assert not records["has_uncommitted_changes"].any()
        assert list(budget.floor["arm"]) == ["4-gram", "3-gram", "2-gram"]


@pytest.mark.parametrize(
    ("picture", "document"), [(reference.PICTURE, "README.md"), (reference.CLAIMS_PICTURE, "RESULTS.md")]
)
def test_the_pictures_of_the_documents_are_there(picture, document):
    assert (reference_folder() / picture).read_bytes().startswith(b"\x89PNG")
    assert f"](outputs/reference/{picture})" in (project_root() / document).read_text(encoding="utf-8")


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no record"):
        reference.publish(tmp_path)


@pytest.fixture
def published_elsewhere(tmp_path, monkeypatch):
    """A reference folder of the test's own, without a picture."""
    folder = tmp_path / "reference"
    for module in (reference, parts, reuse):
        monkeypatch.setattr(module, "reference_folder", lambda: folder)
    monkeypatch.setattr(reference, "draw_reference", lambda: None)
    monkeypatch.setattr(reference, "render", lambda place: "")
    monkeypatch.setattr(planning, "missing_passage", lambda place, record: None)
    return folder


def test_parts_of_a_run_are_published_with_its_tables(tmp_path, published_elsewhere):
    run = tmp_path / "outputs" / "03_causal_masks" / "cpu-1234abcd"
    scores = pd.DataFrame({"perplexity": [1.5]})
    do_part(Part("leak/swapped", {"lr": 1}), run, lambda _: {"scores": scores})
    reference.publish(run)
    assert (published_elsewhere / "03_causal_masks" / "leak" / "swapped" / "tables" / "scores.csv").is_file()
    taken = do_part(Part("leak/swapped", {"lr": 1}), tmp_path / "fresh", lambda _: pytest.fail("done again"))
    assert taken.tables["scores"].perplexity.item() == 1.5


def test_a_comparison_is_published_once_with_the_weights_that_are_named(
    finished_comparison, text_folder, text_data, tmp_path, published_elsewhere, monkeypatch
):
    """What takes it over trains nothing, and publishing that again neither doubles a trial nor loses its weights."""
    _, finished = finished_comparison
    run = shutil.copytree(finished, tmp_path / "outputs" / "02_main_training" / "cpu-1234abcd")
    monkeypatch.setattr(planning, "MOST_WEIGHTS", 1_000)
    with pytest.raises(ValueError, match=r"would take .* MB"):
        reference.publish(run, ["pythia"])
    with pytest.raises(ValueError, match="mla is none of the arms"):
        reference.publish(run, ["mla"])
    assert not published_elsewhere.exists(), "something was written before it was refused"
    monkeypatch.setattr(planning, "MOST_WEIGHTS", 30_000_000)
    reference.publish(run, ["pythia"])
    trials = published_elsewhere / "02_main_training"
    assert [path.parent.name for path in trials.glob("*/model")] == ["pythia-seed1"]
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "fresh"))
    monkeypatch.setattr(comparison, "run_trial", lambda *_: pytest.fail("a published trial was run again"))
    fresh = tmp_path / "fresh" / "06_latent_attention" / "cpu-5678abcd"
    # Taken over when its weights were not published yet.
    plan_publication(run / "pythia-seed1", fresh / "pythia-seed1", KEPT_FILES).write()
    compare(settings(text_folder, arms=["pythia", "narrow"]), text_data, fresh)
    reference.publish(fresh)
    assert [path.name for path in published_elsewhere.iterdir() if path.is_dir()] == ["02_main_training"] or not list(
        (published_elsewhere / "06_latent_attention").rglob("record.json")
    )
    assert (trials / "pythia-seed1" / "model").is_dir()


def test_a_floor_that_stands_with_its_sweep_is_not_published_again_by_a_notebook(
    finished_comparison, text_folder, text_data, tmp_path, published_elsewhere, monkeypatch
):
    _, finished = finished_comparison
    sweep = tmp_path / "outputs" / "sweeps" / "small"
    shutil.copytree(finished, sweep / "test-1234abcd")
    (sweep / "test-1234abcd" / "floors").rename(sweep / "floors")
    reference.publish(sweep)
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "fresh"))
    fresh = tmp_path / "fresh" / "02_main_training" / "cpu-5678abcd"
    compare(settings(text_folder, arms=["pythia"]), text_data, fresh)
    assert list(fresh.glob("floors/*.json")), "the run has one of its own"
    reference.publish(fresh)
    assert [path.parent for path in published_elsewhere.rglob("floors/*.json")] == [
        published_elsewhere / "sweeps" / "small" / "floors"
    ]


def finished_trial(folder: Path, seed: int = 0) -> Path:
    """A trial as a comparison leaves it, as far as it is published."""
    record = read_record(write_record(folder.parent / ".drawn", seed=seed).parent)
    run = Run(folder, record.parameters)
    run.start()
    run.write_json(EVALUATION_FILE, {"window_losses": [1.0, 2.0], "window_groups": [0, 1]})
    run.write_json(HISTORY_FILE, {"main": []})
    run.finish(1.0, record)
    return folder


@pytest.fixture
def two_trials(tmp_path):
    """A comparison of one arm with two seeds."""
    run = tmp_path / "outputs" / "02_main_training" / "cpu-1234abcd"
    for seed in (0, 1):
        finished_trial(run / f"pythia-seed{seed}", seed)
    return run


def test_two_finished_trials_are_published(two_trials, published_elsewhere):
    reference.publish(two_trials)
    published = published_elsewhere / "02_main_training"
    assert [path.name for path in sorted(published.iterdir())] == ["pythia-seed0", "pythia-seed1"]
    assert all(why_unfinished(path) is None for path in published.iterdir())


def _change_record(trial):
    file = trial / RECORD_FILE
    file.write_text(file.read_text().replace('"perplexity": 200.0', '"perplexity": 150.0'))


def _link_evaluation(trial):
    file = trial / EVALUATION_FILE
    file.rename(trial.parents[1] / "elsewhere.json")
    file.symlink_to(trial.parents[1] / "elsewhere.json")


def _link_table(trial):
    (trial.parent / "tables").mkdir()
    (trial.parents[1] / "evil.csv").write_text("x")
    (trial.parent / "tables" / "results.csv").symlink_to(trial.parents[1] / "evil.csv")


SPOILED = {
    "a changed record": (_change_record, r"record\.json is damaged or missing"),
    "no mark": (lambda trial: (trial / "finished.json").unlink(), "it is not finished"),
    "no losses": (lambda trial: (trial / EVALUATION_FILE).unlink(), r"evaluation\.json is damaged or missing"),
    "losses elsewhere": (_link_evaluation, r"evaluation\.json is damaged or missing"),
    "a table elsewhere": (_link_table, r"results\.csv is no file of this run"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_of_a_run_with_one_spoiled_trial_nothing_is_published(two_trials, published_elsewhere, kind):
    spoil, message = SPOILED[kind]
    spoil(two_trials / "pythia-seed1")
    with pytest.raises(PublishingError, match=message):
        reference.publish(two_trials)
    assert not published_elsewhere.exists()


def test_a_part_writes_nothing_outside_the_reference_folder(tmp_path, published_elsewhere):
    run = tmp_path / "outputs" / "03_causal_masks" / "cpu-1234abcd"
    part = do_part(Part("leak", {"lr": 1}), run, lambda _: {"scores": pd.DataFrame({"perplexity": [1.5]})}).folder
    (tmp_path / "evil.txt").write_text("evil")
    name = "tables/../../../../../evil.txt"
    assert (part / name).is_file()
    mark = read_json(part / "finished.json")
    write_json(part / "finished.json", mark | {"files": mark["files"] | {name: digest_of_file(part / name)}})
    with pytest.raises(PublishingError, match="damaged or missing"):
        reference.publish(run)
    assert not published_elsewhere.exists()


def test_of_a_grid_of_rates_what_all_its_trials_say_is_published(finished_comparison, tmp_path, published_elsewhere):
    _, finished = finished_comparison
    sweep = tmp_path / "outputs" / "sweeps" / RATES_SWEEP
    shutil.copytree(finished, sweep / "test-1234abcd")
    reference.publish(sweep)
    published = published_elsewhere / "sweeps" / RATES_SWEEP
    best = pd.read_csv(published / "tables" / "best_learning_rates.csv")
    assert set(best["arm"]) == set(load_records(published)["arm"])
    assert (published / "figures" / "learning_rates.png").is_file()
    assert not list(published.rglob("memory.html")), "what tells rates apart tells nothing of memory"


def test_of_a_grid_of_rates_that_is_not_finished_none_is_called_best(
    finished_comparison, tmp_path, published_elsewhere, monkeypatch, caplog
):
    _, finished = finished_comparison
    sweep = tmp_path / "outputs" / "sweeps" / RATES_SWEEP
    shutil.copytree(finished, sweep / "test-1234abcd")
    (sweep / "tables").mkdir()
    (sweep / "tables" / "best_learning_rates.csv").write_text("of the last trials alone\n", encoding="utf-8")

    def unfinished(records: pd.DataFrame) -> pd.DataFrame:
        raise ParameterError("finish the grid first.")

    monkeypatch.setattr(reference, "best_learning_rates", unfinished)
    reference.publish(sweep)
    published = published_elsewhere / "sweeps" / RATES_SWEEP
    assert "finish the grid first" in caplog.text
    assert (published / "tables" / "results.csv").is_file()
    assert not (published / "tables" / "best_learning_rates.csv").exists()

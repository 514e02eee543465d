import pytest

from newllm.files import project_root, reference_folder, write_json
from newllm.publication import document_tables, reference
from newllm.publication.leaderboard import read_board
from newllm.runs.folder import SWEEPS_FOLDER


def test_reference_records_are_of_one_comparison():
    """Rows of a table are compared, so data, budget and size must be the same."""
    board = read_board([reference_folder() / SWEEPS_FOLDER / reference.LEADING_SWEEP])
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


def test_the_picture_of_the_readme_is_there():
    picture = reference_folder() / reference.PICTURE
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"outputs/reference/{reference.PICTURE}" in (project_root() / "README.md").read_text(encoding="utf-8")


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no record"):
        reference.publish(tmp_path)


def test_a_retrofit_is_published_and_stands_in_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "reference_folder", lambda: tmp_path / "reference")
    with pytest.raises(reference.UnpublishedError, match="newllm retrofit"):
        document_tables.retrofits()
    run = tmp_path / "retrofit" / "pythia-seed0-mla-1234"
    run.mkdir(parents=True)
    common = {"accuracy": 0.2, "bits_per_byte": 1.5, "kept": 0.5, "healing_tokens": 0}
    report = [
        {"stage": "original", "bytes_per_token": 8192.0, "perplexity": 50.0, "energy_lost": None, "control": False},
        {"stage": "factorised", "bytes_per_token": 2048.0, "perplexity": 60.0, "energy_lost": 0.02, "control": False},
        {"stage": "random", "bytes_per_token": 2048.0, "perplexity": 500.0, "energy_lost": None, "control": True},
    ]
    said = {"described": {"parameters": {"method": "mla"}}, "report": [row | common for row in report]}
    write_json(run / "retrofit.json", said)
    (run / "report.csv").write_text("stage\n")
    reference.publish(run)
    table = document_tables.retrofits()
    assert list(table["what became of it"]) == ["original", "mla, factorised", "mla, random"]
    assert list(table["nats/token lost"]) == ["+0.000", "+0.182", "+2.303"]
    assert list(table["energy lost"]) == ["", "2.0%", ""]
    assert list(table[""]) == ["", "", "control"]

"""Published retrofits stand in the tables of RESULTS, without their weights."""

import pytest

from newllm.publication import published, reference, retrofit_tables
from tests.retrofit.finished import run_retrofits_of_two_seeds


@pytest.fixture(scope="module")
def folders(text_data, text_folder, tmp_path_factory):
    return run_retrofits_of_two_seeds(tmp_path_factory.mktemp("retrofits"), text_data, text_folder)


def test_they_are_published_without_weights_and_stand_in_tables(folders, tmp_path, monkeypatch):
    for module in (published, reference):
        monkeypatch.setattr(module, "reference_folder", lambda: tmp_path / "reference")
    with pytest.raises(published.UnpublishedError, match="newllm retrofit"):
        retrofit_tables.retrofits()
    for folder in folders:
        reference.publish(folder)
    kept = tmp_path / "reference" / "retrofit" / folders[0].name
    assert {path.name for path in kept.iterdir()} == {
        *("retrofit.json", "report.csv", "window_losses.json", "run.json", "finished.json")
    }
    table = retrofit_tables.retrofits()
    assert list(table["what became of it"]) == ["original", "latent, weighted"]
    assert table["KV bytes a token (measured)"].tolist() == ["1,024", "512"]
    healed = retrofit_tables.healed_retrofits()
    assert set(healed["seeds"]) == {"", "2"}
    assert list(healed[""]).count("control") == 3

"""A published run: small, sealed, and taken over by whoever asks for the same."""

from pathlib import Path

import pytest
import torch

from newllm.models import create
from newllm.runs.folder import Run, finished_runs
from newllm.runs.publishing import PublishingError, plan_publication, published_size
from newllm.runs.saved_model import LoadingError, load_model


@pytest.fixture
def published(tmp_path: Path) -> Path:
    run = Run(tmp_path / "outputs" / "pythia-seed0", {"lr": 1.0})
    run.start()
    run.write_json("evaluation.json", {"window_losses": [1.5]})
    run.write_json("weights.json", {"large": list(range(1000))})
    run.finish(12.5)
    target = tmp_path / "reference" / "02" / "pythia-seed0"
    plan_publication(run.folder, target, ["evaluation.json"]).write()
    return target


def test_an_equal_run_takes_it_over_without_the_weights(tmp_path, published):
    asked = Run(tmp_path / "elsewhere" / "pythia-seed0", {"lr": 1.0})
    assert asked.take_over(finished_runs(published.parents[1]))
    assert asked.is_finished
    assert sorted(path.name for path in asked.folder.iterdir()) == ["evaluation.json", "finished.json", "run.json"]
    assert not Run(tmp_path / "other" / "pythia-seed0", {"lr": 2.0}).take_over(finished_runs(published.parents[1]))


def test_a_run_of_ones_own_is_wanted_more(tmp_path, published):
    found = finished_runs(tmp_path / "outputs", published.parents[1])
    assert list(found.values()) == [tmp_path / "outputs" / "pythia-seed0"]


def test_one_of_ones_own_is_wanted_more_than_those_published_below_it(tmp_path):
    """As the published results lie below the outputs of a clone, before the folder of sweeps."""
    outputs = tmp_path / "outputs"
    run = Run(outputs / "sweeps" / "pythia-seed0", {"lr": 1.0})
    run.start()
    run.finish(12.5)
    plan_publication(run.folder, outputs / "reference" / "pythia-seed0", []).write()
    assert list(finished_runs(outputs, outputs / "reference").values()) == [run.folder]


def test_a_published_file_that_was_changed_is_not_taken_over(tmp_path, published):
    file = published / "evaluation.json"
    file.write_text(file.read_text().replace("1.5", "1.4"))
    asked = Run(tmp_path / "elsewhere" / "pythia-seed0", {"lr": 1.0})
    assert not asked.take_over(finished_runs(published.parents[1]))


def test_what_is_not_finished_is_not_published(tmp_path):
    run = Run(tmp_path / "outputs" / "mla-seed0", {})
    run.start()
    with pytest.raises(PublishingError, match="it is not finished"):
        plan_publication(run.folder, tmp_path / "reference" / "mla-seed0", []).write()
    assert not (tmp_path / "reference").exists()


def test_a_file_that_the_run_did_not_write_is_not_published(tmp_path):
    run = Run(tmp_path / "outputs" / "mla-seed0", {})
    run.start()
    run.finish(1.0)
    (run.folder / "evaluation.json").write_text("{}")
    with pytest.raises(PublishingError, match=r"holds no evaluation\.json that its run wrote"):
        plan_publication(run.folder, tmp_path / "reference" / "mla-seed0", ["evaluation.json"]).write()
    assert not (tmp_path / "reference").exists()


def test_a_model_is_published_in_half_its_bytes_and_loads_from_where_it_was_taken_over(tmp_path):
    torch.manual_seed(0)
    model = create("mla", "tiny").eval()
    run = Run(tmp_path / "outputs" / "mla-seed0", {"lr": 1.0})
    run.start()
    model.save_pretrained(run.folder / "model")
    run.finish(1.0)
    target = tmp_path / "reference" / "mla-seed0"
    plan_publication(run.folder, target, [], with_model=True).write()
    asked = Run(tmp_path / "elsewhere" / "mla-seed0", {"lr": 1.0})
    assert asked.take_over(finished_runs(tmp_path / "reference")) == target
    loaded = load_model(asked.folder)
    ids = torch.arange(12)[None]
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=0.02, rtol=0.02)
    weights = target / "model" / "model.safetensors"
    values = sum(parameter.numel() for parameter in model.parameters())
    assert published_size(run.folder / "model") == 2 * values <= weights.stat().st_size < 2 * values + 10_000
    weights.write_bytes(weights.read_bytes()[:-2] + b"xx")
    with pytest.raises(LoadingError, match="is damaged or missing"):
        load_model(target)
    plan_publication(run.folder, target, []).write()
    assert not (target / "model").exists()

"""The experiments of notebooks that compare no arms: what they find, and that published ones train nothing."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from newllm.config.notebooks import CausalMasks, ProjectionTraining
from newllm.data.tokenizers import tokenizer_identity
from newllm.experiments import leak, projection_study
from newllm.experiments.leak import train_with_leak
from newllm.experiments.projection_study import (
    build_recurrence,
    checkpoint_folder,
    last_passes,
    study_projections,
)
from newllm.publication import reference
from newllm.recurrence.checkpoint import load_projection
from newllm.recurrence.passes import Passes
from newllm.runs import parts
from tests.comparison_setup import settings as comparison_settings

SHARED = (
    "profile",
    "source",
    "text_files",
    "tokenizer",
    "size",
    "samples",
    "seq_length",
    "val_samples",
    "test_samples",
)


def given(text_folder, **more: Any) -> dict[str, Any]:
    every = comparison_settings(text_folder).model_dump()
    return {name: every[name] for name in SHARED} | {"device": "cpu"} | more


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Publishes a run into a reference folder of the test's own."""
    for module in (reference, parts):
        monkeypatch.setattr(module, "reference_folder", lambda: tmp_path / "reference")
    monkeypatch.setattr(reference, "draw_reference", lambda: None)
    return reference.publish


def test_projections_are_trained_once_looked_at_and_taken_over(text_folder, text_data, tmp_path, publish, monkeypatch):
    parameters = ProjectionTraining(
        **given(text_folder, projection_samples=20, max_iterations=6),
        variants=["as it is", "without embed_norm"],
        seeds=[0, 1],
    )
    run = tmp_path / "outputs" / "01_projection_training" / "cpu-1"
    found = study_projections(parameters, text_data, run)
    assert set(found) == {"history", "spectra", "contexts", "exact", "exact_spectra", "collection"}
    ended = last_passes(found["history"])
    assert len(ended) == len(parameters.variants) * 2
    assert ended.groupby("variant").seed.nunique().eq(2).all()
    assert (ended.passes <= 5).all()
    # A spectrum is shares of a whole, the largest first.
    for _, values in found["spectra"].groupby(["variant", "seed", "iteration"]):
        assert values.share.sum() == pytest.approx(1)
        assert values.share.is_monotonic_decreasing
    assert (found["collection"].difference < 1e-4).all()

    checkpoint = checkpoint_folder(parameters, text_data, run)
    model = build_recurrence(parameters, len(text_data.tokenizer), seed=0)
    load_projection(checkpoint, model, tokenizer_identity(text_data.tokenizer))

    publish(run)
    monkeypatch.setattr(projection_study, "train_projection", lambda *_, **__: pytest.fail("trained again"))
    fresh = tmp_path / "fresh"
    again = study_projections(parameters, text_data, fresh)
    for name, table in found.items():
        pd.testing.assert_frame_equal(again[name], table)
    assert checkpoint_folder(parameters, text_data, fresh) is None
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        study_projections(parameters.model_copy(update={"proj_noise": 0.0}), text_data, tmp_path / "other")


def test_a_changed_seed_trains_only_what_is_new(text_folder, text_data, tmp_path, monkeypatch):
    parameters = ProjectionTraining(
        **given(text_folder, projection_samples=20, max_iterations=4), variants=["as it is"], seeds=[0]
    )
    study_projections(parameters, text_data, tmp_path)
    trained = []
    real = projection_study.train_projection
    monkeypatch.setattr(
        projection_study, "train_projection", lambda *one, **named: trained.append(named["seed"]) or real(*one, **named)
    )
    study_projections(parameters.model_copy(update={"seeds": (0, 5)}), text_data, tmp_path)
    assert trained == [5]


def killing(monkeypatch, kind: type, name: str, is_time) -> None:
    """Let a method end the process, as far as a test can tell, the first time that it is called at that time."""
    real = getattr(kind, name)
    killed: list[bool] = []

    def until_killed(self, *one: Any, **named: Any) -> Any:
        if not killed and is_time(self):
            killed.append(True)
            raise KeyboardInterrupt
        return real(self, *one, **named)

    monkeypatch.setattr(kind, name, until_killed)


@pytest.mark.parametrize("killed", ["between two passes", "after the last pass", "and without its pictures"])
def test_a_killed_recurrence_is_seen_as_one_that_was_trained_at_once(
    text_folder, text_data, tmp_path, monkeypatch, killed
):
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    parameters = ProjectionTraining(
        **given(text_folder, projection_samples=20, max_iterations=15, convergence_target=1.0),
        variants=["as it is"],
        seeds=[0],
    )
    whole = study_projections(parameters, text_data, tmp_path / "whole")
    if killed == "after the last pass":
        killing(monkeypatch, Path, "unlink", lambda path: path.name == "training.safetensors")
    else:
        killing(monkeypatch, Passes, "pass_over", lambda passes: len(passes.history) == 12)
    with pytest.raises(KeyboardInterrupt):
        study_projections(parameters, text_data, tmp_path / "killed")
    (left,) = (tmp_path / "killed").rglob("pictures.safetensors")
    if killed == "and without its pictures":
        left.write_bytes(b"")
    again = study_projections(parameters, text_data, tmp_path / "killed")
    for name, table in whole.items():
        pd.testing.assert_frame_equal(again[name], table)
    assert not left.exists()


def test_the_leak_is_trained_once_and_taken_over(text_folder, text_data, tmp_path, publish, monkeypatch):
    parameters = CausalMasks(**given(text_folder, epochs=2, lr=1e-2, alibi_slope=0.0625))
    run = tmp_path / "outputs" / "03_causal_masks" / "cpu-1"
    scores, losses = train_with_leak(parameters, text_data, run)
    assert list(scores["mask"]) == ["right", "swapped"]
    assert {"mask", "perplexity", "alarming"} <= set(scores)
    by_mask = scores.set_index("mask")
    assert by_mask.perplexity["swapped"] < by_mask.perplexity["right"]
    assert set(losses["mask"]) == {"right", "swapped"}
    publish(run)
    monkeypatch.setattr(leak, "train", lambda *_, **__: pytest.fail("trained again"))
    again, _ = train_with_leak(parameters, text_data, tmp_path / "fresh")
    pd.testing.assert_frame_equal(again, scores)


def test_a_leak_is_not_trained_where_the_warmup_takes_all_steps(text_folder, text_data, tmp_path):
    parameters = CausalMasks(
        **given(text_folder, epochs=1, alibi_slope=0.0625, samples="all", batch_size=99, warmup=0.1)
    )
    with pytest.raises(ValueError, match=r"takes all of training \(1 step\)"):
        train_with_leak(parameters, text_data, tmp_path)
    assert not any(tmp_path.iterdir())

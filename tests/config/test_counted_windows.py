"""What parameters ask of windows is refused where there are fewer: at once, or as soon as all of them are counted."""

import pytest

from newllm.config.errors import ParameterError
from newllm.config.notebooks import PositionEncodings
from newllm.config.profiles import load_parameters
from newllm.config.usual import usual_values
from newllm.data import prepare_data
from tests.comparison_setup import settings

TOO_MANY = 10**6


@pytest.mark.parametrize(
    ("notebook", "given", "said"),
    [
        ("06_latent_attention", {"precision_windows": TOO_MANY}, "precision_windows is 1000000, but there are 16 test"),
        ("06_latent_attention", {"decode_prefill": TOO_MANY}, "decode_prefill is 1000000, but the longest of decode"),
        ("09_cascade", {"loop_tokens": TOO_MANY}, r"loop_tokens is 1000000, but there are \d+ tokens to train on"),
        ("10_key_attention_and_projected_values", {"tokens_a_step": TOO_MANY}, "tokens_a_step is 1000000, but a wind"),
        ("11_recall", {"needle_windows": TOO_MANY}, "needle_windows is 1000000, but there are 16 test windows"),
        ("11_recall", {"truncated_windows": 17}, "truncated_windows is 17, but there are 16 test windows"),
        ("11_recall", {"truncated_contexts": [500]}, r"truncated_contexts is \[500\].*fewer tokens than a window"),
        ("11_recall", {"truncated_contexts": [8, 130]}, r"fewer tokens than a window, of seq_length \(128\)"),
        ("11_recall", {"truncated_contexts": [128]}, "give shorter ones"),
        ("11_recall", {"needle_names": ["which"]}, "a choice is between two: give more names"),
        ("12_retrofit", {"healing_tokens": [1]}, "healing_tokens=1 is one step of healing"),
        ("12_retrofit", {"healing_tokens": [512, 10**5]}, "healing_tokens=100000 is more than the 2,048 tokens"),
        ("12_retrofit", {"calibration_windows": 1000}, "calibration_windows=1000 is more than the 64 windows"),
        ("12_retrofit", {"retrofits": ["mla@batch_size=100000"]}, "'mla@batch_size=100000': .* one step of healing"),
        (
            "12_retrofit",
            {"retrofits": ["mla@batch_size=100000"], "healing_tokens": [0]},
            "batch_size=100000 is more than the 32 windows that are read",
        ),
        ("12_retrofit", {"retrofits": ["mla@healing_evaluations=3"]}, "healing_evaluations=3 is more than the 2 steps"),
    ],
)
def test_more_than_there_is_is_refused_at_once(notebook, given, said):
    with pytest.raises(ParameterError, match=said) as refusal:
        load_parameters(notebook, "smoke", given)
    assert "\n" not in str(refusal.value)


def test_all_windows_are_asked_for_nothing_until_they_are_counted():
    counted = {"samples": "all", "test_samples": "all", "healing_tokens": [10**6], "calibration_windows": 1000}
    parameters = load_parameters("12_retrofit", "smoke", counted)
    parameters.check_windows(10**5, 16)
    with pytest.raises(ValueError, match="calibration_windows=1000 is more than the 999 windows"):
        parameters.check_windows(999, 16)
    recall = load_parameters("11_recall", "smoke", {"test_samples": "all", "truncated_windows": 50})
    recall.check_windows(32, 50)
    with pytest.raises(ValueError, match="truncated_windows is 50, but there are 49 test windows"):
        recall.check_windows(32, 49)


def test_what_is_usual_serves_every_text_and_window():
    """Who changes another parameter has not asked for the default, nor for what the profile says."""
    for notebook, profile, given in (
        ("06_latent_attention", "cpu", {"decode_contexts": [64, 128], "test_samples": 20}),
        ("09_cascade", "cpu", {"samples": 4}),
        ("10_key_attention_and_projected_values", "cpu", {"seq_length": 16, "position_bands": [4, 8]}),
        ("11_recall", "cpu", {"seq_length": 32, "position_bands": [4, 8], "test_samples": 20}),
    ):
        load_parameters(notebook, profile, given)
    parameters = load_parameters("11_recall", "cpu", {"truncated_windows": 5})
    assert usual_values(parameters, "truncated_windows") == {64, 300}
    assert usual_values(parameters, "truncated_contexts") == {8, 16, 32, 64, 128}
    assert usual_values(load_parameters("06_latent_attention", "smoke", {}), "decode_prefill") == set()


def test_too_few_windows_are_refused_when_all_were_counted(text_folder, tmp_path, monkeypatch):
    """So notebook 04 trains nothing that it could not score afterwards."""
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path))
    asked = settings(text_folder, arms=["pythia"], test_samples="all").model_dump()
    fitting = PositionEncodings(**asked, extrapolation_factors=[1, 2])
    there = len(prepare_data(fitting).test)
    beyond = PositionEncodings(**asked, extrapolation_factors=[1, there + 1])
    with pytest.raises(ValueError, match=rf"needs test_samples of {there + 1} or more.*not the {there} that there are"):
        prepare_data(beyond)

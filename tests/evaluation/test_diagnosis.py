"""The bands of the perplexity diagnosis, and what moves a number from one to another."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.evaluation.diagnosis import REFERENCE_BYTES_PER_TOKEN, Verdict, diagnose


def bits(perplexity: float, bytes_per_token: float = REFERENCE_BYTES_PER_TOKEN) -> float:
    return math.log2(perplexity) / bytes_per_token


@pytest.mark.parametrize(
    ("perplexity", "verdict"),
    [
        (1.5, Verdict.ABNORMAL),
        (4.99, Verdict.ABNORMAL),
        (5, Verdict.SUSPICIOUS),
        (30, Verdict.NORMAL_SMALL_DATA),
        (100, Verdict.NORMAL_FROM_SCRATCH),
        (424.4, Verdict.NORMAL_FROM_SCRATCH),
        (500, Verdict.SLOW),
        (1000, Verdict.UNDER_TRAINED),
        (math.inf, Verdict.UNDER_TRAINED),
    ],
)
def test_bands(perplexity, verdict):
    diagnosis = diagnose(perplexity, bits(perplexity), 50304)
    assert diagnosis.verdict == verdict
    assert str(verdict) in diagnosis.message


@given(st.floats(1, 1e5), st.floats(1.5, 3.5))
def test_small_vocabularies_are_judged_by_bytes(perplexity, bytes_per_token):
    small = diagnose(perplexity, bits(perplexity, bytes_per_token), 4096)
    same_text = 2 ** (bits(perplexity, bytes_per_token) * REFERENCE_BYTES_PER_TOKEN)
    assert small.verdict == diagnose(same_text, 1.0, 50304).verdict
    assert small.judged == pytest.approx(same_text)


def test_a_small_vocabulary_is_not_called_memorised():
    assert diagnose(28, bits(28, 2.6), 4096).verdict == Verdict.NORMAL_FROM_SCRATCH


def test_pretrained_pythia_is_normal_where_the_same_number_from_scratch_is_suspicious():
    assert diagnose(26.6, bits(26.6), 50304, pretrained=True).verdict == Verdict.NORMAL_PRETRAINED
    assert diagnose(26.6, bits(26.6), 50304).alarming


def test_a_leak_in_a_pretrained_model_is_abnormal():
    assert diagnose(1.5, bits(1.5), 50304, pretrained=True).alarming
    assert diagnose(400, bits(400), 50304, pretrained=True).verdict == Verdict.POOR_PRETRAINED


@pytest.mark.parametrize(("perplexity", "bits_per_byte"), [(0.5, 1), (math.nan, 1), (10, -1), (10, math.nan)])
def test_impossible_numbers_are_refused(perplexity, bits_per_byte):
    with pytest.raises(ValueError, match="must be 1 or more"):
        diagnose(perplexity, bits_per_byte, 50304)

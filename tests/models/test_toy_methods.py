"""A method of one's own takes part in everything as soon as it is registered, also with a cache layer of its own."""

from collections.abc import Iterator

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from newllm.evaluation.agreement import cached_equals_uncached
from newllm.evaluation.cache import measure
from newllm.evaluation.causality import certify
from newllm.evaluation.kept import kept_by_token
from newllm.experiments.arms import Arm, ArmError
from newllm.experiments.comparison import compare
from newllm.models import create, names
from newllm.models.registry import METHODS, register
from newllm.runs.saved_model import load_trained_model
from tests.comparison_setup import settings
from tests.models import toy_methods

TOYS = {"toy-shared-vector": toy_methods.SharedVectorModel, "toy-segments": toy_methods.SegmentModel}
IDS = torch.randint(512, (2, 70), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Register both as their files would."""
    for name, model_class in TOYS.items():
        register(name, lambda size: {}, summary="a toy")(model_class)
    yield
    for name in TOYS:
        del METHODS[name]


def leaking(model_class):
    torch.manual_seed(0)
    return model_class(create("toy-segments", "tiny").config).eval()


@pytest.mark.parametrize("name", TOYS)
def test_it_is_certified_and_decodes_as_it_computes(name):
    model = create(name, "tiny").eval()
    certificate = certify(model)
    assert certificate.passed, certificate.failures()
    agreement = cached_equals_uncached(model)
    assert agreement.agrees, agreement.errors
    assert {"left padding, decoded", "beam reorder", "repeat and select"} <= set(agreement.errors)


def test_a_leak_within_a_segment_is_caught_where_the_period_is_declared():
    failed = {check.name for check in certify(leaking(toy_methods.LeakingSegmentModel)).checks if not check.passed}
    assert {"full pass", "attention mask", "left padding", "chunked prefill", "training gradient"} <= failed
    # It lies beyond what is probed of a model whose tokens are all alike: the period has to be declared.
    assert certify(leaking(toy_methods.UndeclaredSegmentModel)).passed


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 40])
def test_its_bytes_are_measured_and_belong_to_tokens(name, tokens):
    model = create(name, "tiny")
    assert measure(model, tokens).agrees
    entries = kept_by_token(model, tokens)
    assert entries["values"].sum() == model.cached_values(tokens)
    assert entries["token"].between(0, tokens - 1).all()
    if name == "toy-segments":
        last = (tokens - 1) // 16 * 16
        assert set(entries["token"]) == {*range(0, last, 16), *range(last, tokens)}


def test_growth_is_that_of_whole_segments():
    report = measure(create("toy-segments", "tiny"), 64)
    assert report.bytes_per_token == 2 * 2 * 64 * 4 / 16


@pytest.mark.parametrize("name", TOYS)
def test_it_is_saved_loaded_and_generates(name, tmp_path):
    model = create(name, "tiny").double().eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert type(loaded) is TOYS[name]
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    ways = [
        model.generate(IDS[:, :9], max_new_tokens=30, do_sample=False, use_cache=cached) for cached in (True, False)
    ]
    assert torch.equal(*ways)


def test_both_are_arms(text_folder, text_data, tmp_path):
    assert set(TOYS) < set(names())
    for name in TOYS:
        assert Arm.parse(f"{name}@num_hidden_layers=1").method == name
        with pytest.raises(ArmError, match="has none"):
            Arm.parse(f"{name}-oacd")
        with pytest.raises(ArmError, match=f"{name} has no setting 'num_key_value_heads'"):
            Arm.parse(f"{name}@num_key_value_heads=2").configure(settings(text_folder))
    records = compare(settings(text_folder, arms=list(TOYS), epochs=1), text_data, tmp_path)
    assert list(records["arm"]) == list(TOYS)
    assert (records["kv_bytes"] == records["kv_formula_bytes"]).all()
    assert isinstance(records, pd.DataFrame) and records["perplexity"].between(1, 1000).all()
    for name in TOYS:
        assert load_trained_model(tmp_path / f"{name}-seed1").method == name

"""The certificate passes sound models, and names the fault of each broken one."""

import json

import pytest
import torch

from newllm.evaluation.causality import Certificate, certify
from tests.evaluation import toys


def failed(certificate: Certificate) -> set[str]:
    return {check.name for check in certificate.checks if not check.passed}


@pytest.mark.parametrize("build", [toys.gpt_neox, toys.gpt2, toys.Toy])
def test_sound_models_pass(build):
    certificate = certify(build())
    assert certificate.passed, certificate.failures()
    assert certificate.max_change < 1e-9
    assert all(check.power > check.change for check in certificate.checks)


@pytest.mark.parametrize("vocabulary", [2, 3])
def test_any_vocabulary(vocabulary):
    certificate = certify(toys.Toy(toys.ToyConfig(vocab_size=vocabulary)))
    assert certificate.passed, certificate.failures()


FORWARD = {"full pass", "attention mask", "left padding", "chunked prefill", "chunked prefill, left padding"}
GRADIENTS = {"gradient", "training gradient"}


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (toys.SwappedBias, FORWARD | GRADIENTS),
        (toys.MaskSwitchesCausalityOff, {"attention mask", "left padding", "chunked prefill, left padding"}),
        (toys.LeakInCachedPieces, {"chunked prefill", "chunked prefill, left padding"}),
        (toys.PaddingSeen, {"padded content"}),
        (toys.LeakUnderPadding, {"left padding", "chunked prefill, left padding"}),
        (toys.SeesEndOfOwnChunk, FORWARD | GRADIENTS),
        (toys.OtherRowsSeen, {"full pass", "attention mask"}),
        (toys.LabelsNotShifted, {"labels in evaluation", "labels in training", "training gradient"}),
        (toys.LabelsShiftedTwice, {"labels in evaluation", "labels in training", "training gradient"}),
        (toys.LabelsShiftedTwiceInTraining, {"labels in training", "training gradient"}),
        (toys.LabelsInLogits, {"labels in evaluation", "labels in training"}),
        (toys.CausalityOffInTraining, {"labels in training", "training gradient"}),
        (toys.SaysNothing, {*FORWARD, *GRADIENTS, "padded content", "token-by-token decoding", "labels in evaluation"}),
        (toys.Forgets, {"full pass", "token-by-token decoding"}),
        (toys.NotANumber, {"full pass"}),
    ],
)
def test_broken_models_are_caught_by_the_right_check(broken, caught):
    certificate = certify(broken())
    assert not certificate.passed
    assert caught <= failed(certificate), certificate.table().to_string()


@pytest.mark.parametrize(
    ("broken", "untouched"),
    [
        (toys.MaskSwitchesCausalityOff, {"full pass", "chunked prefill", "gradient", "labels in evaluation"}),
        (toys.LeakInCachedPieces, {"full pass", "attention mask", "left padding", "gradient"}),
        (toys.PaddingSeen, {"full pass", "attention mask", "gradient", "labels in evaluation"}),
        (toys.LabelsNotShifted, FORWARD | {"gradient"}),
        (toys.LabelsShiftedTwiceInTraining, FORWARD | {"gradient", "labels in evaluation"}),
        (toys.CausalityOffInTraining, FORWARD | {"gradient", "labels in evaluation"}),
    ],
)
def test_other_checks_do_not_fail_with_it(broken, untouched):
    assert not untouched & failed(certify(broken()))


def test_a_leak_at_one_offset_of_a_long_chunk_is_found():
    certificate = certify(toys.SeesOneTokenAheadOnce(), period=30)
    assert {"full pass", "left padding", "chunked prefill", "training gradient"} <= failed(certificate)
    detail = next(check.detail for check in certificate.checks if check.name == "full pass")
    assert "changing token 18 changed the logits of the earlier position 17" in detail
    assert certify(toys.SeesOneTokenAheadOnce()).passed, "within twelve tokens there is nothing to see"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (toys.LabelsNotShifted, "not shifted"),
        (toys.LabelsShiftedTwice, "shifted twice"),
        (toys.LabelsInLogits, "logits"),
    ],
)
def test_label_faults_are_told_apart(broken, words):
    check = next(check for check in certify(broken()).checks if check.name == "labels in evaluation")
    assert words in check.detail


def test_it_leaves_model_and_random_state_alone():
    model = toys.gpt2().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = certify(model)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert model.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert certify(model) == first


def test_it_can_be_recorded():
    certificate = certify(toys.Toy())
    assert json.loads(json.dumps(certificate.as_dict()))["passed"] is True
    assert len(certificate.table()) == len(certificate.checks)

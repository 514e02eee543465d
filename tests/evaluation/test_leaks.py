import torch

from newllm.evaluation.causality import certify
from newllm.evaluation.leaks import SwappedMaskModel
from newllm.models import configure, create


def test_the_certificate_catches_the_swapped_mask_and_passes_the_right_one():
    torch.manual_seed(0)
    right = create("unified", "tiny", position="alibi")
    swapped = SwappedMaskModel(configure("unified", "tiny", position="alibi"))
    swapped.load_state_dict(right.state_dict())
    assert certify(right).passed
    certificate = certify(swapped)
    assert not certificate.passed
    assert certificate.max_change > 1e-3


def test_swapped_sees_the_future_and_not_the_past():
    torch.manual_seed(0)
    model = SwappedMaskModel(configure("unified", "tiny", position="alibi")).double().eval()
    ids = torch.arange(10)[None]
    before = model(ids, use_cache=False).logits
    later, earlier = ids.clone(), ids.clone()
    later[0, 9] = 77
    earlier[0, 0] = 77
    assert (model(later, use_cache=False).logits - before)[0, 0].abs().max() > 1e-6
    assert (model(earlier, use_cache=False).logits - before)[0, 1:].abs().max() == 0

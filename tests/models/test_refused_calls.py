"""A call that is refused leaves its cache as it was: the right call after it says what it would have said."""

import pytest
import torch

from newllm.models import create, names
from newllm.models.registry import find

IDS = torch.randint(1, 512, (2, 12), generator=torch.Generator().manual_seed(0))
PAST = 10
NEW = IDS[:, PAST:]
RECURRENT = [name for name in names() if find(name).model_class.recurrence]


def built(name):
    torch.manual_seed(0)
    return create(name, "tiny").double().eval()


def cache_of(model):
    return model(IDS[:, :PAST], use_cache=True).past_key_values


@torch.no_grad()
def refuses(model, said, **wrong):
    """Expect a refusal in one sentence, and the same logits after it as where nothing was refused."""
    expected = model(NEW, past_key_values=cache_of(model)).logits
    cache = cache_of(model)
    with pytest.raises(ValueError, match=said) as caught:
        model(NEW, past_key_values=cache, **wrong)
    assert "\n" not in str(caught.value)
    assert cache.get_seq_length() == PAST
    assert torch.equal(model(NEW, past_key_values=cache).logits, expected)


KEPT = [
    (torch.tensor([99]), "positions outside of this call, which go from 0 to 1$"),
    (torch.tensor([0, -3]), "positions outside of this call"),
    (torch.tensor([0.5]), "int64 or int32, or a number of last logits, got .*float32"),
    (torch.tensor([True, False]), "int64 or int32"),
    (torch.tensor(1), "one row of positions"),
    (torch.tensor([[1]]), "one row of positions"),
    ("x", "logits_to_keep='x' must be a number of last logits"),
    (1.0, "logits_to_keep=1.0 must be"),
    (True, "logits_to_keep=True must be"),
    (None, "logits_to_keep=None must be"),
    (-1, "logits_to_keep=-1 must be"),
]


@pytest.mark.parametrize("name", names())
def test_logits_that_do_not_exist_are_refused_before_anything_is_cached(name):
    refuses(built(name), KEPT[0][1], logits_to_keep=KEPT[0][0])


@pytest.mark.parametrize(("kept", "said"), KEPT)
def test_what_names_no_logits_is_refused(kept, said):
    refuses(built("pythia"), said, logits_to_keep=kept)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_logits_are_kept_as_transformers_keeps_them(kind):
    model = built("pythia")
    whole = model(IDS).logits
    for number, kept in ((0, whole), (1, whole[:, -1:]), (12, whole), (99, whole)):
        torch.testing.assert_close(model(IDS, logits_to_keep=number).logits, kept)
    for positions in ([0, 11], [-1, -12], [3], []):
        asked = torch.tensor(positions, dtype=kind)
        torch.testing.assert_close(model(IDS, logits_to_keep=asked).logits, whole[:, positions])


ITEMS = [
    ("x", "num_items_in_batch='x' must be a number of predicted tokens"),
    (0, "num_items_in_batch=0 must be"),
    (-3, "num_items_in_batch=-3 must be"),
    (float("nan"), "num_items_in_batch=nan must be"),
    (float("inf"), "num_items_in_batch=inf must be"),
    (True, "num_items_in_batch=True must be"),
    ([5], "num_items_in_batch=.* must be"),
    (torch.tensor([1, 2, 3]), "one number of predicted tokens, got .3,"),
    (torch.tensor([]), "one number of predicted tokens"),
    (torch.tensor(True), "one number of predicted tokens"),
]


@pytest.mark.parametrize(("items", "said"), ITEMS)
@pytest.mark.parametrize("name", ["pythia", "cascade"])
def test_what_no_loss_is_divided_by_is_refused(name, items, said):
    refuses(built(name), said, labels=NEW, num_items_in_batch=items)


@pytest.mark.parametrize("training", [False, True])
def test_a_number_of_items_may_be_a_tensor_of_any_shape_with_one_element(training):
    model = built("pythia").train(training)
    expected = model(IDS, labels=IDS, num_items_in_batch=7).loss
    for items in (7.0, torch.tensor(7), torch.tensor(7.0), torch.tensor([7]), torch.tensor([[7]])):
        assert torch.equal(model(IDS, labels=IDS, num_items_in_batch=items).loss.reshape(()), expected)
    # A batch in which nothing is predicted, as a Trainer counts it.
    nothing = torch.full_like(IDS, -100)
    assert model(IDS, labels=nothing, num_items_in_batch=torch.tensor(0)).loss == 0


@pytest.mark.parametrize("name", RECURRENT)
def test_a_cache_goes_on_after_positions_that_a_recurrence_refuses(name):
    refuses(built(name), "position_ids must go up by one", position_ids=torch.tensor([[PAST, PAST + 3]]))


@pytest.mark.parametrize("name", names())
def test_positions_are_whole_numbers(name):
    model = built(name)
    for positions in (torch.tensor([[10.5, 11]]), torch.tensor([[10.0, 11]]), torch.tensor([[True, False]])):
        refuses(model, "position_ids must be whole numbers", position_ids=positions)
    with pytest.raises(ValueError, match=r"position_ids must be whole numbers, got torch.float32"):
        model(IDS, position_ids=torch.arange(12.0)[None])
    expected = model(IDS).logits
    assert torch.equal(model(IDS, position_ids=torch.arange(12, dtype=torch.int32)[None]).logits, expected)


@pytest.mark.parametrize("name", ["pythia", "window"])
def test_a_refused_gap_does_not_change_where_cached_tokens_stand(name):
    model, mask = built(name), torch.ones(2, PAST, dtype=torch.long)
    mask[0, :3] = 0
    both = torch.cat([mask, mask[:, -2:]], 1)
    with torch.no_grad():
        cache = model(IDS[:, :PAST], attention_mask=mask, use_cache=True).past_key_values
        expected = model(NEW, attention_mask=both, past_key_values=cache).logits
        cache = model(IDS[:, :PAST], attention_mask=mask, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="another text needs a cache of its own"):
            model(NEW, attention_mask=both, past_key_values=cache, position_ids=torch.tensor([[5, 5], [5, 5]]))
        with pytest.raises(ValueError, match="says otherwise of the cached tokens"):
            model(NEW, past_key_values=cache)
        assert torch.equal(model(NEW, attention_mask=both, past_key_values=cache).logits, expected)

"""What a model cannot mean is refused in one sentence, before anything is computed or loaded."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from newllm.models import configure, create, names

IDS = torch.randint(1, 512, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("field", ["layer_norm_eps", "initializer_range"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_scale_is_a_positive_number(name, field, value):
    with pytest.raises(ValueError, match=f"{field}=.* must be a number above 0$"):
        configure(name, "tiny", **{field: value})


@pytest.mark.parametrize("name", names())
def test_first_weights_that_no_logits_survive_are_refused(name):
    for value in (101.0, 1e9, 1e30):
        with pytest.raises(ValueError, match=r"initializer_range=.* must be at most 100: "):
            configure(name, "tiny", initializer_range=value)
    model = create(name, "tiny", initializer_range=100.0).eval()
    assert model(IDS).logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pythia", {"num_hidden_layers": 10**6}),
        ("pythia", {"vocab_size": 10**11}),
        ("mla", {"kv_dim": 10**11}),
        ("dproj", {"proj_dim": 10**11}),
        ("cascade", {"num_blocks": 10**6}),
        ("context-kv", {"context_dims": [4] * 1001}),
        ("context-kv", {"context_dims": [10**11]}),
    ],
)
def test_what_nobody_could_build_is_refused_before_it_is_built(name, settings):
    with pytest.raises(ValueError, match="at most") as caught:
        configure(name, "tiny", **settings)
    assert "\n" not in str(caught.value)


def test_a_slope_of_nothing_is_no_alibi():
    with pytest.raises(ValueError, match="take position none instead of alibi"):
        configure("unified", "tiny", position={"type": "alibi", "alibi_slope": 0})


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_mask_that_is_added_to_scores_is_refused(kind):
    model = create("pythia", "tiny").eval()
    ones = torch.ones(2, 9)
    ones[0, :3] = 0
    added = torch.zeros(2, 9).masked_fill(ones == 0, -torch.inf)
    for mask in (added, torch.full((2, 9), -torch.inf), torch.full((2, 9), 0.5)):
        with pytest.raises(ValueError, match="1 for real tokens and 0 for padding"):
            model(IDS, attention_mask=mask.to(kind))
    with pytest.raises(ValueError, match="1 for real tokens and 0 for padding"):
        model(IDS, attention_mask=ones.long() * 2)
    given = model(IDS, attention_mask=ones.to(kind)).logits
    for other in (ones.bool(), ones.long(), ones.int()):
        assert torch.equal(given, model(IDS, attention_mask=other).logits)


@pytest.mark.parametrize("training", [False, True])
def test_labels_are_the_tokens_again_or_refused(training):
    model = create("pythia", "tiny").train(training)
    for labels, reason in (
        (IDS[:, :-2], "labels must be the tokens again"),
        (IDS[:1], "labels must be the tokens again"),
        (IDS + 512, "0 to 511"),
        (IDS - 512, "0 to 511"),
        (IDS.float(), "whole numbers"),
    ):
        with pytest.raises(ValueError, match=reason):
            model(IDS, labels=labels)
    ignored = IDS.masked_fill(IDS > 250, -100)
    assert torch.equal(model(IDS, labels=ignored.int()).loss, model(IDS, labels=ignored).loss)


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_not_read_as_weights(tmp_path, kind):
    model = create("pythia", "tiny")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "gpt_neox.layers.0.attention.dense.weight"
    weights[name] = weights[name].to(kind)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"{name} is stored as .*before it was quantised"):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (IDS.float(), "must be whole numbers, int64 or int32, got torch.float32"),
        (IDS.bool(), "must be whole numbers"),
        (IDS + 512, "but this model reads ids from 0 to 511"),
        (IDS - 600, "but this model reads ids from 0 to 511"),
    ],
)
@pytest.mark.parametrize("name", ["pythia", "cascade"])
def test_what_is_no_id_is_refused_in_one_sentence(name, ids, said):
    with pytest.raises(ValueError, match=said):
        create(name, "tiny")(ids)

"""Every setting that a model accepts makes another model, or it is refused: no arm is another's twin."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedConfig

from newllm.experiments.arms import Arm
from newllm.models import configure, create, find, names
from newllm.models.language_model import LanguageModel
from tests.experiments.test_arms import TINY

SIZE = "tiny"
IDS = torch.randint(1, 512, (2, 21), generator=torch.Generator().manual_seed(0))
# A value other than the one that a tiny model has, where that does not follow from it: see `values_to_try`.
OTHER = {
    "attention_biases": "inputs",
    "attention_path": "absorbed",
    "backbone": "llama",
    "bos_token_id": 3,
    "chunk_size": 5,
    "context_dim": 20,
    "context_dims": [12],
    "data_split": "full",
    "embedding_size": 48,
    "embedding_source": "random",
    "eos_token_id": 3,
    "freeze_embedding": False,
    "hidden_size": 96,
    "initializer_range": 0.05,
    "intermediate_size": 100,
    "key_dim": 8,
    "kv_dim": 24,
    "kv_dims": [8, 24],
    "layer_norm_eps": 0.1,
    "layers_sharing": 3,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_blocks": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "pad_token_id": 3,
    "position": "none",
    "proj_dim": 24,
    "rotary_dim": 8,
    "rotary_heads": 2,
    "rotary_pairs": [[[0]]],
    "rotary_width": 8,
    "sinks": 2,
    "token_context": "current",
    "use_cache": False,
    "value_dim": 24,
    "vocab_size": 640,
    "window": 7,
}
# The same, where a model has just that one.
OTHER_OF: dict[tuple[str, str], Any] = {("llama", "backbone"): "neox", ("llama", "num_key_value_heads"): 1}
# Settings that only show beside another one.
BESIDE = {
    "layers_sharing": {"num_hidden_layers": 3},
    "rotary_dim": {"position": "rope"},
    "rotary_heads": {"position": "rope"},
}
# Settings of training: whose embedding is taken, and what each recurrence learns from. That they are followed is tested
# where it is done, in tests/experiments/test_recipes.py and tests/training/test_stream.py.
OF_TRAINING = {"embedding_source", "data_split"}
INHERITED = sorted(field.name for field in fields(PreTrainedConfig))
OTHER_INHERITED = {
    "chunk_size_feed_forward": 4,
    "dtype": "bfloat16",
    "is_encoder_decoder": True,
    "output_hidden_states": True,
    "return_dict": False,
}


def every_field() -> list[tuple[str, str]]:
    """Every model with every field that its config has of its own."""
    own = {name: {field.name for field in fields(find(name).config_class)} - {*INHERITED} for name in names()}
    return [(name, field) for name, known in own.items() for field in sorted(known)]


def build(name: str, **settings) -> LanguageModel:
    torch.manual_seed(0)
    return create(name, SIZE, **settings).eval()


@torch.no_grad()
def described(model: LanguageModel) -> tuple:
    """What may differ: size, what trains, bytes, function."""
    trainable = sum(part.numel() for part in model.parameters() if part.requires_grad)
    return model.num_parameters(), trainable, model.cached_values(40), model(IDS).logits.double().sum().item()


def values_to_try(name: str, field: str, usual: Any) -> list[Any]:
    """Values that a field may have instead of its usual one: those known, or what a switch or a number could be."""
    if (name, field) in OTHER_OF:
        return [OTHER_OF[name, field]]
    if field in OTHER:
        return [OTHER[field]]
    if isinstance(usual, bool):
        return [not usual]
    if isinstance(usual, int):
        return [value for value in (2 * usual, usual // 2, usual + 1, usual - 1) if value != usual]
    return [2 * usual, usual / 2, usual + 0.5] if isinstance(usual, float) else []


def in_another_way(name: str, field: str, usual: Any, **beside) -> LanguageModel:
    """Build a model with the first value of a field that it accepts."""
    tried = values_to_try(name, field, usual)
    assert tried, f"what else may {field} of {name} be than {usual!r}? Say it in OTHER, in {__file__}"
    for value in tried[:-1]:
        try:
            return build(name, **beside, **{field: value})
        except ValueError:
            continue
    return build(name, **beside, **{field: tried[-1]})


@pytest.mark.parametrize("usual", [True, False, 0, 1, 4, 0.0, 0.5])
def test_a_switch_or_a_number_needs_no_value_in_the_table(usual):
    tried = values_to_try("any", "field-of-a-new-method", usual)
    assert any(value != usual for value in tried) and {type(value) for value in tried} == {type(usual)}
    assert values_to_try("any", "field-of-a-new-method", "words") == []


@pytest.mark.parametrize(("name", "field"), every_field())
def test_each_field_has_an_effect_or_is_refused(name, field):
    beside = BESIDE.get(field, {})
    before = build(name, **beside)
    if field not in find(name).settings:
        with pytest.raises(ValueError, match=f"{name} has no setting '{field}'"):
            build(name, **{field: OTHER.get(field, "x")})
        return
    if field == "data_split" and len(before.config.context_widths) == 1:
        with pytest.raises(ValueError, match="does nothing with one context block"):
            build(name, data_split="full")
        return
    after = in_another_way(name, field, getattr(before.config, field), **beside)
    assert getattr(after.config, field) != getattr(before.config, field)
    assert field in OF_TRAINING or described(after) != described(before)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("field", [*INHERITED, "attn_implementation", "quantization_config", "output_attentions"])
def test_no_field_of_transformers_is_a_setting(name, field):
    with pytest.raises(ValueError, match=f"{name} has no setting '{field}'.*: it has .*vocab_size"):
        configure(name, SIZE, **{field: OTHER_INHERITED.get(field, 1)})


@pytest.mark.parametrize("name", names())
def test_a_value_of_another_type_is_refused_in_one_sentence(name):
    whole = configure(name, SIZE).to_dict()
    before = whole | dict(whole.get("position", {}))
    for field in sorted(find(name).settings - {"position", "embedding_source"}):
        for value in ("no", "1", [True], {"a": 1}, *((True,) if not isinstance(before[field], bool) else (0, 1, 0.5))):
            with pytest.raises(ValueError) as caught:
                configure(name, SIZE, **{field: value})
            said = str(caught.value)
            assert field in said and "not supported between" not in said and "\n" not in said, said


@given(name=st.sampled_from(names()), field=st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=20))
def test_an_unknown_setting_is_refused_in_one_sentence(name, field):
    if field not in find(name).settings:
        with pytest.raises(ValueError, match="has no setting") as caught:
            configure(name, SIZE, **{field: 1})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arm", "reason"),
    [
        ("pythia@output_hidden_states=true", "pythia has no setting 'output_hidden_states'"),
        ("pythia@dtype=bfloat16", "no setting 'dtype'"),
        ("mla@rotary_dim=8", "rotary_dim=8 does nothing without RoPE"),
        ("cascade@embedding_digest=abc", "no setting 'embedding_digest'"),
        ("unified@position={type: alibi, rotary_base: 500.0}", "rotary_base=500.0 does nothing under .*'alibi'"),
        ("pythia@alibi_slope=0.5", "alibi_slope=0.5 does nothing under .*'rope'"),
        ("mla@rotary_fraction=0.5", "rotary_fraction=0.5 does nothing under .*'alibi'"),
        ("mla@position=rope,rotary_fraction=0.5", "rotary_fraction=0.5 is not free"),
        ("cascade@alibi_slope=0.5", "cascade has no setting 'alibi_slope'"),
        ("unified@position={type: none, alibi_slope: 0.5}", "alibi_slope=0.5 does nothing under .*'none'"),
        ("unified@position={type: alibi, alibi_slopes_by_head: true, alibi_slope: 0.5}", "leave one out"),
        ("pythia@num_attention_heads=64", "heads of width 1 are too narrow for RoPE"),
        ("dproj@hidden_size=128", "no setting 'hidden_size'"),
        ("dproj@proj_dim=4", "heads of width 1 are too narrow"),
        ("context-kv@data_split=full", "does nothing with one context block"),
        ("cascade@num_blocks=1,data_split=full", "does nothing with one context block"),
    ],
)
def test_arms_that_would_be_others_are_refused_before_anything_runs(arm, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        Arm.parse(arm).configure(TINY)
    assert "\n" not in str(caught.value)


def test_a_head_of_width_one_runs_where_nothing_turns_it():
    model = build("unified", num_attention_heads=64, position="alibi")
    assert model(IDS).logits.isfinite().all()


def test_a_setting_that_a_model_accepts_has_an_effect_or_is_refused():
    """In the words in which it was first found wanting."""
    bad: list[tuple[str, str]] = []
    for name in names():
        try:
            model = create(name, "tiny", tie_word_embeddings=True)
            if model.get_input_embeddings().weight is not model.get_output_embeddings().weight:
                bad.append((name, "tie_word_embeddings=True"))
        except ValueError:
            pass
    for name, setting, value in (("dproj", "hidden_size", 128), ("dproj", "intermediate_size", 100)):
        try:
            if getattr(create(name, "tiny", **{setting: value}).config, setting) != value:
                bad.append((name, setting))
        except ValueError:
            pass
    try:
        position = {"type": "rope", "rotary_fraction": 0.5}
        if create("mla", "tiny", position=position).config.position.rotary_fraction != 0.5:
            bad.append(("mla", "rotary_fraction"))
    except ValueError:
        pass
    assert not bad

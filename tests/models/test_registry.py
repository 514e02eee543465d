import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from newllm.models import create, find, names, sizes
from newllm.models.registry import SIZES, controls

PARAMETERS_70M = {
    "pythia": 70_426_624,
    "unified": 70_426_624,
    "dproj": 49_519_552,
    "mla": 68_448_256,
    "vdproj": 69_245_824,
    "ka": 70_426_624,
}
VALUES_PER_TOKEN_70M = {
    "pythia": 6144,
    "unified": 6144,
    "dproj": 3840,
    "narrow": 3840,
    "mqa": 768,
    "mla": 768,
    "context": 256,
    "cla": 256,
    "vdproj": 4992,
    "ka": 6144,
}


def create_on_meta(*args, **kwargs):
    with torch.device("meta"):
        return create(*args, **kwargs)


@pytest.mark.parametrize(("name", "expected"), PARAMETERS_70M.items())
def test_parameter_counts_at_70m(name, expected):
    assert sum(parameter.numel() for parameter in create_on_meta(name, "70m").parameters()) == expected


@pytest.mark.parametrize(("name", "expected"), VALUES_PER_TOKEN_70M.items())
def test_values_per_token_at_70m(name, expected):
    model = create_on_meta(name, "70m")
    assert model.cached_values(129) - model.cached_values(128) == expected


@pytest.mark.parametrize("size", [size for size in sizes() if SIZES[size].width % 64 == 0])
def test_eight_heads_of_which_one_is_kept_are_the_bytes_of_mla_at_every_size(size):
    control = create_on_meta("mqa", size, num_attention_heads=8, num_key_value_heads=1)
    assert control.cached_values(1000) == create_on_meta("mla", size).cached_values(1000)


@pytest.mark.parametrize("size", sizes())
def test_an_mlp_of_27_32_makes_a_pythia_of_the_parameters_of_mla_at_every_size(size):
    whole = create_on_meta("pythia", size).config.intermediate_size
    slim = create_on_meta("pythia", size, intermediate_size=whole * 27 // 32).num_parameters()
    assert slim == pytest.approx(create_on_meta("mla", size).num_parameters(), rel=0.005)
    if size in ("mini", "70m", "160m"):
        assert slim == pytest.approx(create_on_meta("context", size).num_parameters(), rel=0.01)


def test_dproj_keeps_one_state_beside_its_tokens():
    assert create_on_meta("dproj", "70m").cached_values(0) == 320


@pytest.mark.parametrize("size", sizes())
def test_a_control_keeps_no_more_than_what_it_stands_beside_where_one_head_is_not_already_more(size):
    for name in controls():
        method = find(name)
        control, beside = create_on_meta(name, size), create_on_meta(str(method.control), size)
        # Far from the beginning, where what is kept of the first tokens has long filled up.
        kept, allowed = (model.cached_values(10_001) - model.cached_values(10_000) for model in (control, beside))
        assert kept <= allowed or control.config.num_key_value_heads == 1
        if size in ("70m", "410m", "1b", "1.4b"):
            assert kept == allowed, name


@pytest.mark.parametrize("size", sizes())
def test_every_size_builds(size):
    for name in names():
        assert create_on_meta(name, size).config.vocab_size >= 512


def test_pythia_suite_has_its_published_sizes():
    """Parameters of the Pythia suite (Biderman et al. 2023, table 1), as published with the checkpoints."""
    published = {"160m": 162_322_944, "410m": 405_334_016, "1b": 1_011_781_632, "1.4b": 1_414_647_808}
    for size, count in published.items():
        assert sum(parameter.numel() for parameter in create_on_meta("pythia", size).parameters()) == count


@pytest.mark.parametrize(
    ("arguments", "overrides", "reason"),
    [
        (("pythya", "tiny"), {}, "did you mean 'pythia'"),
        (("pythia", "70M"), {}, "did you mean '70m'"),
        (("dproj", "tiny"), {"proj_dims": 32}, "did you mean 'proj_dim'"),
        (("dproj", "tiny"), {"proj_dim": 0}, "proj_dim=0 must be at least 1"),
        (("dproj", "tiny"), {"proj_dim": -8}, "proj_dim=-8"),
        (("pythia", "tiny"), {"hidden_size": "64"}, "hidden_size"),
        (("pythia", "tiny"), {"hidden_size": 65}, "multiple of num_attention_heads"),
        (("pythia", "tiny"), {"num_key_value_heads": 3}, "must divide"),
        (("pythia", "tiny"), {"vocab_size": 0}, "vocab_size=0"),
        (("unified", "tiny"), {"position": "sinus"}, "choose one of"),
        (("mla", "tiny"), {"layer_norm_eps": -1}, "must be a number above 0"),
    ],
)
def test_unknown_and_impossible_requests_name_the_way_out(arguments, overrides, reason):
    with pytest.raises(ValueError, match=reason):
        create(*arguments, **overrides)


@pytest.mark.parametrize("setting", ["layer_norm_eps", "initializer_range"])
def test_a_real_setting_may_be_written_as_a_whole_number(setting):
    value = getattr(create_on_meta("mla", "tiny", **{setting: 1}).config, setting)
    assert (value, type(value)) == (1.0, float)


@pytest.mark.parametrize(("asked", "built"), [(300, 304), (250, 256), (320, 320)])
def test_proj_dim_is_rounded_up_to_the_heads(asked, built, caplog):
    model = create_on_meta("dproj", "70m", proj_dim=asked)
    assert model.config.proj_dim == model.config.hidden_size == built
    assert (f"rounded up to {built}" in caplog.text) == (asked != built)


def test_rounded_width_runs():
    model = create("dproj", "70m", proj_dim=300, vocab_size=64, num_hidden_layers=1).eval()
    assert model(torch.arange(6)[None]).logits.shape == (1, 6, 64)


@pytest.mark.parametrize("name", names())
def test_auto_classes_know_every_model(name, tmp_path):
    model = create(name, "tiny")
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is find(name).config_class
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model)
    assert not any(info.values()), info

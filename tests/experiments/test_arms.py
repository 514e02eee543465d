"""Arms by name: what is read, what is refused, and what treatments of one method share."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from newllm import models
from newllm.config.experiment import ExperimentParameters
from newllm.config.groups import ModelParameters, ProjectionParameters
from newllm.config.methods import CHECKPOINT_PREFIX
from newllm.config.notebooks import NOTEBOOKS
from newllm.config.profiles import load_parameters, notebooks_of, profiles
from newllm.experiments.arms import PROJECTION_TREATMENTS, Arm, ArmError, has_recurrence, reads_stream, trained_arms


class Parameters(ModelParameters, ProjectionParameters):
    """What an arm reads of a notebook's parameters."""


TINY = Parameters(size="tiny")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=6),
    st.sampled_from(["1e-05", "null", "true", "", " ", "a,b", "a=b", "x@y", "[a", "a: b", "# a", "'", '"', "\\", "ä"]),
)
SETTINGS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["type", "by_head", "x"]), inner, max_size=3).map(
            lambda mapping: frozenset(mapping.items())
        ),
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(
    st.sampled_from(models.names()),
    st.sampled_from(PROJECTION_TREATMENTS),
    st.booleans(),
    st.booleans(),
    st.dictionaries(st.sampled_from(["alpha", "beta_2"]), SETTINGS),
)
@example("cascade", "oacd", False, False, {"alpha": ","})
@example("cascade", "oacd", False, False, {"alpha": ",0", "beta_2": "='"})
@example("dproj", "oacd", True, True, {})
def test_a_name_says_everything_about_an_arm(method, treatment, lent, frozen, overrides):
    arm = Arm(
        method,
        treatment if has_recurrence(method) else None,
        lent_embedding=lent and not reads_stream(method),
        frozen_embedding=frozen,
        overrides=tuple(sorted(overrides.items())),
    )
    assert Arm.parse(arm.name) == arm
    assert Arm.parse(arm.name).name == arm.name, "1 is not 1.0, nor true"
    assert set(arm.folder_name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=-")


def test_settings_that_say_what_is_so_anyway_make_no_other_arm():
    said = {
        "unified@position=rope": "pythia",
        "mla@kv_dim=16,position=none": "mla@position=none",
        "dproj-random@proj_dim=40": "dproj-random",
        "pythia@num_key_value_heads=1": "mqa",
        "mqa": "mqa",
        "pythia@num_key_value_heads=4": "pythia",
        "dproj@proj_dim=41": "dproj-oacd@proj_dim=44",
        "cascade-frozen-embedding": "cascade-oacd",
        "pythia-frozen-embedding": "pythia-frozen-embedding",
        "unified@position=alibi": "unified@position=alibi",
        "mla@position={type: alibi, alibi_slopes_by_head: true}": "mla@alibi_slopes_by_head=true",
        "unified@position={type: alibi, alibi_slope: 0.25}": "unified@alibi_slope=0.25,position=alibi",
        "mla@position={rotary_fraction: 1.0}": "mla@position=rope",
        "pythia@rotary_fraction=0.25": "pythia",
        "cla@layers_sharing=2": "cla",
        "unified@rotary_fraction=0.3": "pythia",
        "pythia@rotary_fraction=0.6": "pythia@rotary_fraction=0.5",
        "pythia@rotary_fraction=1": "pythia@rotary_fraction=1.0",
        "dproj@rotary_fraction=0.2": "dproj-oacd",
        "mla@alibi_slope=1": "mla@alibi_slope=1.0",
        "cla@num_key_value_heads=4": "cla@num_key_value_heads=null",
    }
    assert {text: Arm.parse(text).as_trained(TINY).name for text in said} == said
    assert Arm.parse("mla@kv_dim=16").as_trained(Parameters(size="mini")).name == "mla@kv_dim=16"


@pytest.mark.parametrize(
    ("names", "arm"),
    [
        (["dproj", "dproj-oacd"], "dproj-oacd"),
        (["pythia", "mla", "unified@position=rope"], "pythia"),
        (["mla@kv_dim=16", "mla"], "mla"),
        (["pythia", "unified@rotary_fraction=0.3"], "pythia"),
        (["pythia@rotary_fraction=0.5", "pythia@rotary_fraction=0.6"], "pythia@rotary_fraction=0.5"),
        (["mla@alibi_slope=1", "mla@alibi_slope=1.0"], "mla@alibi_slope=1.0"),
    ],
)
def test_two_names_of_one_arm_are_refused(names, arm):
    parameters = load_parameters("02_main_training", "smoke", {"arms": names})
    with pytest.raises(
        ArmError, match=f"^arms has '{names[0]}' and '{names[-1]}', but both are {arm}: leave one out.$"
    ):
        trained_arms(parameters)


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS))
def test_the_arms_of_every_profile_are_of_one_name_each(notebook):
    for profile in profiles():
        if notebook not in notebooks_of(profile):
            continue
        parameters = load_parameters(notebook, profile, {})
        if isinstance(parameters, ExperimentParameters):
            trained = [arm for arm in parameters.arms if not arm.startswith(CHECKPOINT_PREFIX)]
            assert len(trained_arms(parameters)) == len(trained)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cascade-frozen-embedding@freeze_embedding=false", "leave one out"),
        ("cascade-random@data_split=full", "leave data_split out"),
        ("cascade-end-to-end@data_split=disjoint", "leave data_split out"),
    ],
)
def test_an_arm_that_contradicts_itself_is_refused(text, message):
    with pytest.raises(ArmError, match=message):
        Arm.parse(text).as_trained(TINY)


def test_projection_training_is_left_out_by_name_only():
    assert Arm.parse("dproj") == Arm.parse("dproj-oacd") == Arm("dproj", "oacd")
    assert Arm.parse("dproj-frozen-embedding") == Arm("dproj", "oacd", frozen_embedding=True)
    lent = Arm("dproj", "oacd", lent_embedding=True, frozen_embedding=True)
    assert Arm.parse("dproj-lent-embedding-frozen-embedding") == lent
    assert Arm.parse("pythia") == Arm("pythia")
    assert Arm.parse(" pythia-frozen-embedding ") == Arm("pythia", frozen_embedding=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pythai", r"'pythai' names no model \(did you mean 'pythia'\?\): write <model>.* with one of .*dproj.*pythia"),
        ("dproj-lent-embedding-oacd", r"asks for 'lent-embedding-oacd': .*then lent-embedding, then frozen-embedding"),
        ("dproj-orthogonal", r"asks for 'orthogonal': after the model dproj come one of oacd, random, end-to-end"),
        ("dproj-oacd-frozen", r"asks for 'oacd-frozen'"),
        (
            "dproj-frozen-embedding-lent-embedding",
            r"asks for 'frozen-embedding': .* then lent-embedding, then frozen-embedding, each",
        ),
        (
            "cascade-lent-embedding",
            r"asks for lent-embedding, but cascade takes over an embedding anyway: leave it out",
        ),
        ("mla--lent-embedding", r"asks for ''"),
        ("pythia-", r"asks for ''"),
        ("pythia-oacd", r"treats a recurrence, but pythia has none: write 'pythia'"),
        ("pythia@", r"not of the form @setting=value"),
        ("pythia@heads", r"not of the form @setting=value"),
        ("pythia@a=1,a=2", r"gives a setting twice"),
        ("mla@alibi_slope=1,position={type: alibi, alibi_slope: 2}", r"gives a setting twice"),
        ("pythia@a={b: 1", r"settings that are no values: its brackets do not match"),
        ("pythia@a={b: 1, b: 2}", r"a setting that is no value, write \[a, b\] or {key: value}: .* b is given twice"),
        ("", r"names no model"),
    ],
)
def test_what_is_no_arm_is_refused_in_one_sentence(text, message):
    with pytest.raises(ArmError, match=message) as caught:
        Arm.parse(text)
    assert str(caught.value).count("\n") == 0


def test_an_arm_that_cannot_be_built_is_refused_before_anything_runs():
    for text, reason in {"pythia@num_attention_heads=3": "multiple", "pythia@kv_dim=64": "kv_dim"}.items():
        with pytest.raises(ArmError, match=reason):
            Arm.parse(text).configure(TINY)
    Arm.parse("mqa@num_key_value_heads=2").configure(TINY)


def test_settings_come_from_the_size_then_the_parameters_then_the_arm():
    given = Parameters(size="tiny", proj_dim=48)
    assert Arm.parse("dproj").build(TINY, 512, seed=0).config.proj_dim == 40
    assert Arm.parse("dproj").build(given, 512, seed=0).config.proj_dim == 48
    assert Arm.parse("dproj@proj_dim=32").build(given, 512, seed=0).config.proj_dim == 32
    assert Arm.parse("context-kv@chunk_size=5,context_dims=[20, 12]").build(TINY, 512, seed=0).context_width == 32
    steep = Arm.parse("unified@position={type: alibi, alibi_slope: 0.25}").build(TINY, 512, seed=0).config.position
    assert (steep.type, steep.alibi_slope) == ("alibi", 0.25)
    assert Arm.parse("pythia").settings(given) == {}, "a model without projection has no use for its width"


@pytest.mark.parametrize(("tokens", "vocabulary"), [(512, 512), (500, 512), (4096, 4096), (50_277, 50_304)])
def test_the_vocabulary_is_the_tokenizers_padded(tokens, vocabulary):
    assert Arm.parse("pythia").build(TINY, tokens, seed=0).config.vocab_size == vocabulary


def test_treatments_start_from_the_same_weights_and_seeds_do_not():
    def weights(text: str, seed: int) -> dict[str, torch.Tensor]:
        return Arm.parse(text).build(TINY, 512, seed).state_dict()

    state = torch.get_rng_state()
    oacd, random, other = weights("dproj-oacd", 1), weights("dproj-random", 1), weights("dproj-oacd", 2)
    assert all(torch.equal(oacd[name], random[name]) for name in oacd)
    assert not torch.equal(oacd["gpt_neox.embed_in.weight"], other["gpt_neox.embed_in.weight"])
    assert torch.equal(torch.get_rng_state(), state), "building draws from a generator of its own"


@pytest.mark.parametrize("method", models.names())
def test_the_vocabulary_is_the_tokenizers_and_no_setting_of_an_arm(method: str) -> None:
    with pytest.raises(ArmError, match="follows from the tokenizer: leave it out"):
        Arm.parse(f"{method}@vocab_size=128")

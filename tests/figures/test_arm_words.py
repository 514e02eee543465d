"""Names of arms in pictures: shorter, and nothing that tells two arms apart is left out."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.config.profiles import sweep_path
from newllm.experiments.sweeps import load_sweep, plan
from newllm.figures.arm_words import LONGEST_LINE, arm_in_words, name_lines


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("pythia", "pythia"),
        ("mqa@alibi_slopes_by_head=true,num_attention_heads=8,position=alibi", "mqa: 8 heads, ALiBi slopes by head"),
        ("unified@position=alibi", "unified: ALiBi"),
        ("narrow@hidden_size=208,intermediate_size=832", "narrow: width 208, MLP of 832"),
        ("context-kv-oacd@context_dims=[42,42],chunk_size=50", "context-kv-oacd: chunks of 50, contexts of 42 and 42"),
        ("unified@position={type:alibi,alibi_slope:0.25}", "unified: position={type:alibi,alibi_slope:0.25}"),
        ("mqa@num_attention_heads=8 (lr 0.001, seed 3)", "mqa: 8 heads (lr 0.001, seed 3)"),
        ("pythia (lr 0.001)", "pythia (lr 0.001)"),
    ],
)
def test_settings_are_said_in_words_and_what_has_none_stays(arm, words):
    assert arm_in_words(arm) == words


@pytest.mark.parametrize("sweep", ["sotu", "cascade", "context_kv", "stdlib"])
def test_no_two_arms_of_a_sweep_have_the_same_words(sweep):
    names = {trial.arm.name for trial in plan(load_sweep(sweep_path(sweep), {}))}
    for one, other in combinations(names, 2):
        assert arm_in_words(one) != arm_in_words(other)


@given(st.lists(st.sampled_from(["num_attention_heads=8", "chunk_size=25", "kv_dim=64", "latent=[1,2]"]), unique=True))
def test_lines_are_the_words_and_none_is_longer_than_it_has_to_be(settings):
    arm = "@".join(["mla", ",".join(settings)][: 1 + bool(settings)])
    lines = name_lines(arm)
    assert " ".join(lines) == arm_in_words(arm)
    assert all(len(line) <= LONGEST_LINE for line in lines)

"""The line that says what a notebook runs with."""

from newllm.config.profiles import load_parameters
from newllm.notebook.parameters import MOST_NAMED, headline


def test_a_few_arms_are_named_in_words_and_many_are_counted():
    arms = ["pythia", "mqa@num_attention_heads=2"]
    few = headline(load_parameters("02_main_training", "smoke", {"arms": arms}))
    assert few.splitlines()[1] == "arms: pythia | mqa: 2 heads"
    many = [f"mla@kv_dim={8 * place}" for place in range(1, MOST_NAMED + 2)]
    said = headline(load_parameters("02_main_training", "smoke", {"arms": many}))
    assert said.endswith(f"; {len(many)} arms")
    assert "mla" not in said


def test_a_notebook_without_arms_names_none():
    assert "arms" not in headline(load_parameters("03_causal_masks", "smoke", {}))

"""The table of all models says what the single measurements say."""

import pytest

from newllm.evaluation.survey import survey
from newllm.models import create


def agrees_with_the_models(table):
    for name, row in table.iterrows():
        model = create(str(name), "tiny")
        assert row["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert row["values_per_token"] * 64 + row["state_bytes"] / 4 == model.cached_values(64)
    assert table["certificate"].all()
    assert table["formula_agrees"].all()
    assert table["cache_error"].max() < 1e-9


def test_the_table_holds_each_model_with_its_proof_and_its_speed():
    table = survey(["mla", "pythia"], "tiny", contexts=(16, 24), steps=2).set_index("model")
    assert table["saved"].to_dict() == {"pythia": 0, "mla": 0.875}
    assert list(table.index) == ["pythia", "mla"]
    assert (table[["tokens_per_second_16", "tokens_per_second_24"]] > 0).all(axis=None)
    agrees_with_the_models(table)


def test_a_state_alone_and_no_timing():
    table = survey(["cascade"], "tiny", contexts=()).set_index("model")
    assert table.loc["cascade", "saved"] == 1
    assert not [column for column in table if column.startswith("tokens")]
    agrees_with_the_models(table)


def test_an_unknown_model_is_refused_at_once():
    with pytest.raises(ValueError, match="did you mean 'cascade'"):
        survey(["pythia", "casc"], "tiny")

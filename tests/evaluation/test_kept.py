import pytest

from newllm.evaluation.kept import kept_by_token
from newllm.models import create, names
from newllm.models.cache_entries import CHUNK_END, KEYS, SHARED, STATE, VALUES


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("tokens", [1, 8, 19])
def test_every_cached_value_belongs_to_a_token(name, tokens):
    model = create(name, "tiny")
    entries = kept_by_token(model, tokens)
    assert entries["values"].sum() == model.cached_values(tokens)
    assert entries["token"].between(0, tokens - 1).all()
    assert not entries.duplicated(["token", "kind"]).any()


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("pythia", {KEYS, VALUES}),
        ("mla", {SHARED}),
        ("context", {SHARED}),
        ("dproj", {KEYS, VALUES, STATE}),
        ("cascade", {STATE}),
        ("context-kv", {CHUNK_END, STATE}),
    ],
)
def test_kinds_of_entries(name, kinds):
    entries = kept_by_token(create(name, "tiny"), 20)
    assert set(entries["kind"]) == kinds
    assert set(entries[entries["kind"] == STATE]["token"]) <= {19}
    assert set(entries[entries["kind"] == CHUNK_END]["token"]) in (set(), {7, 15})

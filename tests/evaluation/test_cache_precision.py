"""One row a precision: what is kept grows narrower, what is lost is measured through the cache."""

import numpy as np
import pytest
import torch

from newllm.evaluation.cache_precision import score_by_precision
from newllm.evaluation.perplexity import evaluate
from newllm.models import create


class SomeWindows:
    """Five windows of 12 tokens that repeat themselves."""

    seq_length = 12
    text_bytes = 200
    token_ids = np.random.default_rng(0).integers(0, 512, 12 * 5 + 1)

    def __len__(self) -> int:
        return 5


def trained(name: str):
    """A model that is sure of what it says, so that errors in its cache show."""
    torch.manual_seed(0)
    model = create(name, "tiny")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    ids = torch.from_numpy(SomeWindows.token_ids.astype(np.int64)).unfold(0, 13, 12)
    for _ in range(30):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", ["pythia", "mla", "dproj"])
def test_fewer_bits_keep_fewer_bytes_and_lose_more(name):
    model, windows = trained(name), SomeWindows()
    table = score_by_precision(model, windows).set_index("precision")
    assert list(table.index) == ["float32", "bfloat16", "float8", "int8", "int4"]
    plain = evaluate(model, windows)
    assert table.perplexity["float32"] == pytest.approx(plain.perplexity, rel=1e-5)
    assert table.accuracy["float32"] == plain.accuracy
    assert table.difference.isna().tolist() == [True, False, False, False, False]
    assert table.bytes_per_token["float32"] == 2 * table.bytes_per_token["bfloat16"]
    assert table.bytes_per_token["bfloat16"] > table.bytes_per_token["int8"] > table.bytes_per_token["int4"]
    assert table.state_bytes.nunique() == 1
    assert (table.state_bytes["int4"] > 0) == (name == "dproj"), "a state is kept as it is"
    lost = table.difference.abs()
    assert lost["bfloat16"] < lost["int4"]
    assert (table.low.dropna() <= table.difference.dropna()).all()


@pytest.mark.parametrize("name", ["pythia", "mla"])
def test_a_call_of_many_tokens_reads_what_calls_of_one_read(name):
    model, windows = trained(name), SomeWindows()
    one = score_by_precision(model, windows, precisions=["int4"]).perplexity[0]
    many = evaluate(model, windows, tokens_a_step=5, new_cache=lambda: model.new_cache("int4")).perplexity
    assert one == pytest.approx(many, rel=1e-5)


def test_what_has_no_precision_is_refused_before_it_is_scored():
    with pytest.raises(ValueError, match="RecurrentStateLayer"):
        score_by_precision(create("cascade", "tiny"), SomeWindows())
    with pytest.raises(ValueError, match="float16"):
        score_by_precision(create("pythia", "tiny"), SomeWindows(), precisions=["float32", "float16"])
    with pytest.raises(ValueError, match="precisions is empty"):
        score_by_precision(create("pythia", "tiny"), SomeWindows(), precisions=[])

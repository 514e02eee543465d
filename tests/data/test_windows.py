"""Windows: every token predicted once, every byte counted once, nothing trusted that is damaged."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.data.groups import DocumentGroups
from newllm.data.windows import CachedTokens, Tokens, TokenWindows, smallest_id_type
from newllm.models import create


def five_tokens() -> Tokens:
    return Tokens(np.arange(5, dtype=np.uint16), DocumentGroups.of([(3, "first"), (2, "second")]))


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_windows_predict_every_token_once(windows: int, seq_length: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    ids = random.integers(0, 50, windows * seq_length + 1).astype(np.uint16)
    table = random.integers(0, 9, 50)
    data = TokenWindows(ids, seq_length, table)
    assert len(data) == windows
    predicted = [token for index in range(windows) for token in data[index]["labels"][1:].tolist()]
    assert predicted == ids[1:].tolist()
    assert data.text_bytes == sum(table[token] for token in predicted)
    with pytest.raises(IndexError):
        data[windows]
    for index in range(windows - 1):
        assert data[index]["input_ids"][-1] == data[index + 1]["input_ids"][0]


def test_the_model_shifts_and_nobody_else_does() -> None:
    data = TokenWindows(np.arange(33, dtype=np.uint16), 32, np.ones(512, dtype=np.int64))
    batch = {name: value[None] for name, value in data[0].items()}
    output = create("pythia", "tiny").eval()(**batch)
    by_hand = -output.logits[0].log_softmax(-1)[range(32), range(1, 33)].mean()
    assert output.loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_stream_is_of_the_first_windows_or_all_there_are() -> None:
    data = TokenWindows(np.arange(13, dtype=np.uint16), 4, np.ones(13, dtype=np.int64))
    assert data.stream(2).tolist() == list(range(8))
    assert data.stream().tolist() == data.stream("all").tolist() == data.stream(9).tolist() == list(range(12))


@pytest.mark.parametrize("length", [0, 1, 4, 8])
def test_parts_of_windows_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="not a whole number of windows of 4"):
        TokenWindows(np.zeros(length, dtype=np.uint16), 4, np.ones(1, dtype=np.int64))


def test_ids_take_the_smallest_type_that_holds_them() -> None:
    assert smallest_id_type(50_304) is np.uint16
    assert smallest_id_type(65_536) is np.uint16
    assert smallest_id_type(65_537) is np.uint32


def test_cached_tokens_are_memory_mapped_and_whole_or_not_there(cache: Path) -> None:
    tokens = CachedTokens("some-train", 5, source="some")
    assert tokens.read() is None
    ids, _ = tokens.write(five_tokens())
    assert isinstance(ids, np.memmap)
    again = tokens.read()
    assert again is not None
    assert ids.tolist() == again.ids.tolist() == [0, 1, 2, 3, 4]
    assert again.groups.at(range(5)).tolist() == [0, 0, 0, 1, 1]
    assert again.groups.names == ("first", "second")
    stored = (tokens.path.name, tokens.groups_path.name)
    names = {path.name for path in tokens.path.parent.iterdir()}
    assert names == {*stored, *(f"{name}.sha256" for name in stored)}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_name(f"{path.name}.sha256").unlink(),
        lambda path: path.with_name(f"{path.name}.sha256").write_bytes(b"\xff"),
        lambda path: np.save(path, np.arange(4, dtype=np.uint16)),
        lambda path: np.save(path, np.array([None] * 5), allow_pickle=True),
    ],
)
def test_a_damaged_file_is_made_again(cache: Path, caplog: pytest.LogCaptureFixture, damage) -> None:
    tokens = CachedTokens("some-train", 5, source="some")
    tokens.write(five_tokens())
    damage(tokens.path)
    assert tokens.read() is None
    assert f"{tokens.path.relative_to(cache)} is damaged" in caplog.text
    assert str(cache) not in caplog.text, "a place of this machine"
    tokens.write(five_tokens())
    assert tokens.read() is not None
    tokens.groups_path.write_bytes(tokens.groups_path.read_bytes()[:-3])
    assert tokens.read() is None


def test_no_flipped_bit_is_other_data(cache: Path) -> None:
    tokens = CachedTokens("some-train", 5, source="some")
    tokens.write(five_tokens())
    content = tokens.path.read_bytes()
    for bit in range(0, 8 * len(content), 13):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        tokens.path.write_bytes(flipped)
        os.utime(tokens.path, ns=(bit, bit))  # another time, however coarse the file system's clock is
        assert tokens.read() is None, bit
    tokens.path.write_bytes(content)
    assert tokens.read() is not None


def test_the_key_holds_every_field() -> None:
    keys = [
        CachedTokens("some", 5, source="a", side="train"),
        CachedTokens("some", 6, source="a", side="train"),
        CachedTokens("some", "all", source="a", side="train"),
        CachedTokens("some", 5, source="b", side="train"),
        CachedTokens("some", 5, source="a", side="validation"),
        CachedTokens("some", 5, source="a", side="train", tokenizer="t"),
    ]
    assert len({tokens.path for tokens in keys}) == len(keys)

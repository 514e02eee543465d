"""The hub: nothing lost or repeated where it breaks, one clear error where it does not answer."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newllm.data.hub import HubUnavailableError, dataset_revision, dataset_rows
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

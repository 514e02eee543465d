import pytest

from newllm.wording import describe_seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.7, "1 min 00 s")]
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert describe_seconds(seconds) == text

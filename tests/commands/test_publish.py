"""``newllm publish`` says in words what it cannot do."""

import argparse

import pytest

from newllm.commands import publish
from newllm.files import UnwritableError
from newllm.publication.published import UnpublishedError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/results/record.json"), "/results/record.json cannot be read or"),
        (UnwritableError(28, "No space left on device", "/results/a.csv"), "/results/a.csv cannot be written (No"),
        (UnpublishedError("newllm run 02"), "not published yet: `newllm run 02`"),
        (ValueError("/results holds no record"), "/results holds no record"),
    ],
)
def test_what_the_system_refuses_is_said_in_words(error, said, monkeypatch, tmp_path, caplog):
    def refuse(*_):
        raise error

    monkeypatch.setattr(publish, "publish", refuse)
    assert publish.main(argparse.Namespace(folder=tmp_path, weights=[])) == 2
    (message,) = caplog.messages
    assert message.startswith(said) and "Errno" not in message

"""What nbval does not look at: the kernel's own word on whether a cell succeeded, and whether the kernel lives.

nbval counts a cell as failed where an error is among its outputs. A magic that fails, or a cell that ends the kernel,
leaves none there; the kernel's reply says it in either case.
"""

from collections.abc import Iterator
from queue import Empty
from typing import Any

import pytest
from nbval.plugin import IPyNbCell

SECONDS_BETWEEN_LOOKS = 2


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a cell of a notebook whose kernel replies that it failed, or does not reply because it is dead."""
    if not isinstance(item, IPyNbCell):
        return (yield)
    kernel = item.parent.kernel
    get_message = kernel.get_message
    failures = []

    def get_watched(stream: str, timeout: float | None = None) -> dict[str, Any]:
        left = float("inf") if timeout is None else timeout
        while True:
            try:
                message: dict[str, Any] = get_message(stream, min(left, SECONDS_BETWEEN_LOOKS))
            except Empty:
                left -= SECONDS_BETWEEN_LOOKS
                if not kernel.is_alive():
                    item.raise_cell_error("The kernel died while it executed this cell")
                if left <= 0:
                    raise
                continue
            if message["msg_type"] == "execute_reply" and message["content"]["status"] == "error":
                failures.append(message["content"])
            return message

    kernel.get_message = get_watched
    try:
        yield
    finally:
        kernel.get_message = get_message
    if failures and not item.options["check_exception"]:
        reply = failures[0]
        item.raise_cell_error("Cell execution failed", "\n".join([f"{reply['ename']}: {reply['evalue']}"]))
    return None

"""Ctrl-C: an end within seconds and one line, whatever the command is doing, and no process left behind."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

logger = logging.getLogger(__name__)

# What a shell calls a command that Ctrl-C ended.
INTERRUPTED = 130

# So long may locks be given back and files be closed after Ctrl-C.
GRACE_SECONDS = 2.0

KEEPER = "multiprocessing.resource_tracker"


class Interruption:
    """What one Ctrl-C sets off.

    Python tells of a signal only between two of its own steps, and a library in between may keep the exception; so a
    thread is told of it at once, which ends the processes that were started, and after a while this one.

    Parameters
    ----------
    advice
        How to go on: the end of the one line.
    """

    def __init__(self, advice: str) -> None:
        self.line = f"\nInterrupted: {advice}."
        self._heard, self._told = socket.socketpair()
        self._told.setblocking(False)
        self._is_said = False
        self._is_pressed = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let the first Ctrl-C raise KeyboardInterrupt and end within seconds, and the second one end at once.

        A shell starts what stands before ``&`` with Ctrl-C ignored; whoever sends the signal there means it, too.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._raise_once)
        descriptor = signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._end, daemon=True).start()
        try:
            yield
        finally:
            # After Ctrl-C the thread keeps watch until the process is gone.
            if not self._is_pressed:
                signal.set_wakeup_fd(descriptor)
                signal.signal(signal.SIGINT, previous)
                self._told.close()

    def say(self) -> int:
        """Show the line, end what was started and give the exit status."""
        self._is_said = True
        logger.error("%s", self.line)
        end_children()
        return INTERRUPTED

    def _raise_once(self, number: int, frame: FrameType | None) -> None:
        if not self._is_pressed:
            self._is_pressed = True
            raise KeyboardInterrupt

    def _end(self) -> None:
        """Wait for Ctrl-C, then for the end, a second Ctrl-C or the end of patience."""
        if not self._hear():
            return
        # Tasks that wait for a kernel hear of its death, and nobody hears them any more.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        end_children()
        self._heard.settimeout(GRACE_SECONDS)
        try:
            self._hear()
        except TimeoutError:
            end_children()
        if not self._is_said:
            # Not by logging, whose lock the main thread may hold.
            sys.stdout.flush()
            os.write(sys.stdout.fileno(), f"{self.line}\n".encode())
        os._exit(INTERRUPTED)

    def _hear(self) -> bool:
        """Wait for the signal's number, which Python writes; False where the watch is over."""
        while received := self._heard.recv(1):
            if received[0] == signal.SIGINT:
                return True
        return False


def end_children() -> None:
    """Kill all processes that this one started, and theirs: kernels, workers, browsers; their runs go on from disk."""
    for child in psutil.Process().children(recursive=True):
        try:
            # Python's own keeper of shared memory ends with this process, and complains where it ends before.
            if not any(KEEPER in argument for argument in child.cmdline()):
                child.kill()
        except psutil.Error:  # it ended by itself
            continue

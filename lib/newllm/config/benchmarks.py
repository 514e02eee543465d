"""Benchmarks as a parameter names them: ``lambada`` and ``wikitext`` of the hub, or ``lambada:FILE`` of a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from newllm.files import digest_of_file
from newllm.wording import did_you_mean

LAMBADA, WIKITEXT = "lambada", "wikitext"
NAMES = (LAMBADA, WIKITEXT)


@dataclass(frozen=True)
class Benchmark:
    """What trained models are asked.

    Attributes
    ----------
    name
        One of `NAMES`.
    file
        The user's file; None asks the test set on the hub.
    """

    name: str
    file: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a benchmark's name, with ``:`` and a file behind it or without.

        Raises
        ------
        ValueError
            For whatever else, with the nearest name.
        """
        name, colon, file = (part.strip() for part in text.partition(":"))
        if name not in NAMES or (colon and not file):
            raise ValueError(
                f"{text!r} is no benchmark{did_you_mean(name, NAMES)}: write {' or '.join(NAMES)}, or "
                f"{LAMBADA}:FILE for a file of your own (newllm evaluate asks others)"
            )
        return cls(name, Path(file).expanduser() if file else None)

    def identity(self) -> str:
        """Return what decides the answers: the name, and the digest of the file, wherever it lies."""
        if self.file is None:
            return self.name
        # A file that is not there is refused before any work.
        return f"{self.name}:{digest_of_file(self.file) if self.file.is_file() else self.file}"

"""What a causality certificate says: each check with what it found, and what it could have found."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

# A dependence smaller than this is no proof that a probe can see anything.
POWER = 1e-6
SHORT_LENGTH = 12


@dataclass(frozen=True)
class Check:
    """One probe.

    Attributes
    ----------
    name
        What was probed.
    passed
        No leak, and power to have seen one.
    change
        Largest change where none may be.
    power
        Change where there must be one, the smallest that counts.
    detail
        What happened, in words.
    """

    name: str
    passed: bool
    change: float
    power: float
    detail: str


@dataclass(frozen=True)
class Certificate:
    """What `certify` found; a result is recorded only where it ``passed``.

    Attributes
    ----------
    passed
        Whether every check passed.
    max_change
        Largest change of a logit that had to stay as it was, or of the state that it is made of; rounding, of about
        1e-15, where no token leaks.
    checks
        The checks, each with its own verdict.
    """

    passed: bool
    max_change: float
    checks: list[Check]

    def table(self) -> pd.DataFrame:
        """Return one row a check."""
        return pd.DataFrame([asdict(check) for check in self.checks])

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types, for a result record."""
        return asdict(self)

    def failures(self) -> list[str]:
        """Return "name: detail" of each check that failed."""
        return [f"{check.name}: {check.detail}" for check in self.checks if not check.passed]


def finite(value: float) -> float:
    """Return the value, NaN as infinity: NaN would compare as no change."""
    return math.inf if math.isnan(value) else value


def few(offsets: Sequence[int]) -> list[int]:
    """Return at most a dozen of them, both ends among them."""
    stride = max(1, math.ceil(len(offsets) / SHORT_LENGTH))
    return sorted({*offsets[::stride], offsets[-1]})

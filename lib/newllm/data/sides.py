"""The windows of a text by what they are for: to learn from, to choose by, to publish numbers of."""

from dataclasses import dataclass

from newllm.data.windows import TokenWindows
from newllm.files import digest_of_json


@dataclass(frozen=True)
class TextSides:
    """Windows of the three sides, and what they depend on.

    Attributes
    ----------
    train, validation, test
        The windows: to learn from, to choose settings and epochs by, and to publish numbers of.
    identity
        Name and value of all that the windows depend on, with a digest of the ids of each side.
    """

    train: TokenWindows
    validation: TokenWindows
    test: TokenWindows
    identity: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits which differ where the identity differs."""
        return digest_of_json(self.identity)[:32]

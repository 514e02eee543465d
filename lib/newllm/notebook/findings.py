"""What a notebook's run shows, in sentences under its table."""

from collections.abc import Sequence

HEADING = "What this run shows"


class Findings:
    """Sentences, which a cell ends with: a list where Markdown is read, lines elsewhere.

    Parameters
    ----------
    sentences
        Of Markdown, as `newllm.analysis.findings.findings` makes them.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        self.sentences = tuple(sentences)

    def __repr__(self) -> str:
        return "\n".join([f"{HEADING}:", *(f"- {sentence}" for sentence in self.sentences)])

    def _repr_markdown_(self) -> str:
        return "\n".join([f"**{HEADING}**", "", *(f"- {sentence}" for sentence in self.sentences)])

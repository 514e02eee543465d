"""What a notebook's run shows, in sentences under its table."""

from collections.abc import Sequence

HEADING = "What this run shows"


class Findings:
    """Sentences, which a cell ends with: a list where Markdown is read, lines elsewhere.

    Parameters
    ----------
    sentences
        Of Markdown, as `newllm.analysis.findings.findings` makes them.
    heading
        What stands above them, for what is not of this run.
    """

    def __init__(self, sentences: Sequence[str], heading: str = HEADING) -> None:
        self.sentences = tuple(sentences)
        self.heading = heading

    def __repr__(self) -> str:
        return "\n".join([f"{self.heading}:", *(f"- {sentence}" for sentence in self.sentences)])

    def _repr_markdown_(self) -> str:
        return "\n".join([f"**{self.heading}**", "", *(f"- {sentence}" for sentence in self.sentences)])

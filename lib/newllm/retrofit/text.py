"""What a retrofit asks of its text, whatever that is, and what of it is healed on."""

from newllm.config.groups import EvaluationParameters
from newllm.config.retrofit import RetrofitParameters
from newllm.data.sides import TextSides
from newllm.evaluation.recall_report import refuse_too_many_passages

# One window in so many is held out, where no others are given to score, or to judge healing by.
HELD_OUT = 5


def check_amounts(text: TextSides, parameters: RetrofitParameters, evaluation: EvaluationParameters) -> None:
    """Refuse more than there is, and amounts that change nothing, as `RetrofitParameters.refuse_amounts`.

    Raises
    ------
    ValueError
        In one sentence.
    """
    parameters.refuse_amounts(len(text.train), text.train.seq_length)
    refuse_too_many_passages(text.test, evaluation)


def healing_text(text: TextSides, tokens: int) -> TextSides:
    """Take the first windows of the training text, of at least that many tokens."""
    count = -(-tokens // text.train.seq_length)
    identity = {**text.identity, "healing_windows": str(count)}
    return TextSides(text.train.first(count), text.validation, text.test, identity)

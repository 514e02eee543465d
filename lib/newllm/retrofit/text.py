"""What a retrofit asks of its text, whatever that is, and what of it is healed on."""

from newllm.config.groups import EvaluationParameters
from newllm.config.retrofit import RetrofitParameters
from newllm.data.sides import TextSides
from newllm.evaluation.recall_report import refuse_too_many_passages

# One window in so many is held out, where no others are given to score, or to judge healing by.
HELD_OUT = 5


def check_amounts(text: TextSides, parameters: RetrofitParameters, evaluation: EvaluationParameters) -> None:
    """Refuse more than there is, and healing of a single step, whose learning rate is the zero that it begins with.

    Raises
    ------
    ValueError
        In one sentence.
    """
    train = text.train
    there = len(train) * train.seq_length
    if "calibration_windows" in parameters.model_fields_set and parameters.calibration_windows > len(train):
        raise ValueError(
            f"calibration_windows={parameters.calibration_windows} is more than the {len(train)} windows of "
            f"{train.seq_length} tokens that there are: give more text, or ask for fewer"
        )
    if parameters.healing_tokens > there:
        raise ValueError(
            f"healing_tokens={parameters.healing_tokens} is more than the {there:,} tokens that there are to heal on: "
            "give more text, or ask for fewer"
        )
    step = parameters.batch_size * train.seq_length
    if 0 < parameters.healing_tokens <= step:
        raise ValueError(
            f"healing_tokens={parameters.healing_tokens} is one step of healing, whose learning rate is still 0: give "
            f"more than {step:,}, or a smaller batch_size"
        )
    refuse_too_many_passages(text.test, evaluation)


def healing_text(text: TextSides, tokens: int) -> TextSides:
    """Take the first windows of the training text, of at least that many tokens."""
    count = -(-tokens // text.train.seq_length)
    identity = {**text.identity, "healing_windows": str(count)}
    return TextSides(text.train.first(count), text.validation, text.test, identity)

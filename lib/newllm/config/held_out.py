"""Which documents of a source are held out, and the refusal of others for a model that has learned from it."""

from collections.abc import Mapping
from typing import Any

# What decides which documents of a source are on which side.
OF_SPLIT = ("validation_percent", "test_percent")


def refuse_known_text(asked: Mapping[str, Any], learned: Mapping[str, Any]) -> None:
    """Refuse other shares of a source than a model was trained with, for they hold out some of what it has read.

    Parameters
    ----------
    asked
        Parameters of the text that it would be scored on, as far as they are said.
    learned
        Those of the text that it was trained on, as far as they are known.

    Raises
    ------
    ValueError
        Names the share that differs.
    """
    if "source" not in learned or asked.get("source", learned["source"]) != learned["source"]:
        return
    for name in OF_SPLIT:
        if name in asked and name in learned and str(asked[name]) != str(learned[name]):
            raise ValueError(
                f"{name} is {asked[name]}, but the model was trained with {learned[name]}, so that it knows some of "
                f"the text that it would be scored on: write {name}={learned[name]}."
            )

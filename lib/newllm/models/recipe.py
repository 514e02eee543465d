"""How a model wants to be trained, as its class declares it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """What main training reads; what is done with it is `newllm.experiments.recipes`' to say.

    Attributes
    ----------
    name
        For messages.
    continuous
        Whether the model is trained on one continuous stream, its state carried from the first token to the last, and
        scored on one too; otherwise on windows that each start from an empty cache.
    """

    name: str
    continuous: bool


WINDOWS = Recipe("windows", continuous=False)
CONTEXTS = Recipe("contexts of a continuous stream", continuous=True)

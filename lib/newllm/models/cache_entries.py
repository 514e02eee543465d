"""What a cache layer still holds of each token, as the layer itself describes it, for pictures and counts."""

from abc import abstractmethod
from typing import NamedTuple

from transformers.cache_utils import CacheLayerMixin, DynamicLayer

KEYS, VALUES, SHARED = "keys", "values", "one vector for both"
CHUNK_END, STATE = "context of a chunk", "last context"


class Entry(NamedTuple):
    """Some values that are kept of one token.

    Attributes
    ----------
    token
        Which token, 0 for the first.
    kind
        What the values are, in words.
    values
        How many there are, of one sequence.
    """

    token: int
    kind: str
    values: int


class DescribedLayer(CacheLayerMixin):
    """A cache layer of one's own, which says what it holds."""

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Describe all that is kept of the first sequence; the values of the entries add up to those in the layer."""


def entries_of(layer: CacheLayerMixin) -> list[Entry]:
    """Describe what a layer holds of the first sequence: a layer of one's own, or a stock one with tokens along it.

    Raises
    ------
    TypeError
        For a layer of another kind that does not describe itself.
    """
    if isinstance(layer, DescribedLayer):
        return layer.entries()
    if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
        raise TypeError(f"{type(layer).__name__} does not say what it holds: derive it from DescribedLayer")
    shared = layer.values.numel() == 0
    kept = [(SHARED if shared else KEYS, layer.keys), (VALUES, layer.values)]
    # A sliding layer holds the last tokens only.
    first = layer.get_seq_length() - layer.keys.shape[2]
    return [
        Entry(first + index, kind, tensor.shape[1] * tensor.shape[3])
        for kind, tensor in kept
        if tensor.numel()
        for index in range(tensor.shape[2])
    ]

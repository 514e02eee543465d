"""Attention to the contexts at the ends of chunks, and to a token's own: a memory of one context a chunk."""

import torch
from torch import Tensor, nn


class ChunkContextAttention(nn.Module):
    """H heads whose queries come from a token, and whose keys and values come from contexts.

    Contexts are attended to as they are: the weights of keys and values are absorbed into queries and outputs, so
    neither keys nor values are built. Keys have no bias: it would add the same to all scores of a query. The heads side
    by side are as wide as the embedding that they are added to, and nothing projects them.

    Parameters
    ----------
    embed_dim
        Width d of the normed token embeddings, and of the result.
    context_width
        Width W of a context, all blocks' together.
    num_heads
        H, a divisor of d.
    """

    def __init__(self, embed_dim: int, context_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (embed_dim // num_heads) ** -0.5
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(context_width, embed_dim, bias=False)
        self.value = nn.Linear(context_width, embed_dim)

    def forward(self, embeds: Tensor, contexts: Tensor, slots: Tensor, visible: Tensor) -> Tensor:
        """Attend from each token to the slots that it may see and to its own context.

        Scores are (B, H, T, N + 1); nothing of size T x N x W ever exists.

        Parameters
        ----------
        embeds
            Normed embeddings (B, T, d).
        contexts
            Context after each token (B, T, W).
        slots
            Contexts at chunk ends (B, N, W).
        visible
            How many of the slots, from the first, each token sees (B, T).

        Returns
        -------
        Tensor
            (B, T, d).
        """
        shape = (self.num_heads, -1, contexts.shape[-1])
        key, value = self.key.weight.view(shape), self.value.weight.view(shape)
        queries = self.query(embeds).unflatten(2, (self.num_heads, -1)).transpose(1, 2) @ key
        hidden = torch.arange(slots.shape[1], device=slots.device) >= visible[..., None]
        to_slots = (queries.flatten(1, 2) @ slots.mT).view(*queries.shape[:3], slots.shape[1])
        to_slots = to_slots.masked_fill(hidden[:, None], -torch.inf)
        to_own = torch.einsum("bhtw,btw->bht", queries, contexts)[..., None]
        weights = (torch.cat([to_slots, to_own], dim=-1) * self.scale).softmax(-1)
        from_slots, from_own = weights[..., :-1], weights[..., -1:]
        mixed = (from_slots.flatten(1, 2) @ slots).view_as(queries) + from_own * contexts[:, None]
        return (mixed @ value.mT).transpose(1, 2).flatten(2) + self.value.bias

"""What the models with a recurrence share: its blocks, the norm of what they read, and contexts collected before."""

from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor, nn

from newllm.models.language_model import LanguageModel
from newllm.models.projection import DiverseProjection, unroll_side_by_side
from newllm.models.step import Step


class RecurrentModel(LanguageModel):
    """Mixin of the models that read the contexts of one or more recurrences, independent of each other.

    A subclass calls `add_recurrences` while it makes its modules.
    """

    recurrence = True
    # Each a DiverseProjection.
    context_blocks: nn.ModuleList
    # Norm of the embeddings that the recurrences read.
    embed_norm: nn.LayerNorm

    def add_recurrences(self, embed_dim: int, widths: Sequence[int]) -> None:
        """Make one recurrence for each of the widths, over embeddings of width ``embed_dim``, and their norm."""
        self.context_blocks = nn.ModuleList(DiverseProjection(embed_dim, width) for width in widths)
        self.embed_norm = nn.LayerNorm(embed_dim, eps=self.config.layer_norm_eps)

    @property
    def projection(self) -> DiverseProjection:
        """The recurrence, of a model that has exactly one.

        Raises
        ------
        TypeError
            Where the model has several.
        """
        if len(self.context_blocks) != 1:
            raise TypeError(f"{type(self).__name__} has {len(self.context_blocks)} context blocks, not one")
        return cast(DiverseProjection, self.context_blocks[0])

    @property
    def context_width(self) -> int:
        """Width of the contexts of all recurrences together."""
        return sum(cast(DiverseProjection, block).proj_dim for block in self.context_blocks)

    @property
    def data_split(self) -> Literal["disjoint", "full"]:
        """What each recurrence is trained on: its own one of as many contiguous parts of the data, or all of it."""
        return "disjoint"

    def normed_embeddings(self, input_ids: Tensor) -> Tensor:
        """Return what the recurrences read, ``embed_norm(embed_in(ids))``: tokens (...) -> (..., E)."""
        return self.embed_norm(self.get_input_embeddings()(input_ids))

    def unroll_contexts(self, embeds: Tensor, state: Tensor | None, step: Step) -> Tensor:
        """Run all recurrences over the new tokens, or take the contexts that were given for them.

        Parameters
        ----------
        embeds
            Normed embeddings (B, T, E).
        state
            Contexts before the first token, the blocks' widths one after the other (B, P); zero where None.
        step
            What is known of the tokens.

        Returns
        -------
        Tensor
            Contexts after each token (B, T, P).
        """
        if step.contexts is not None:
            return step.contexts
        return unroll_side_by_side(self.context_blocks, embeds, state, step.token_mask)

    def freeze_context_blocks(self) -> None:
        """Take the recurrences and the ``embed_norm`` that they were trained against out of training."""
        self.context_blocks.requires_grad_(False)
        self.embed_norm.requires_grad_(False)

    def check_contexts(self, contexts: Tensor, embeds: Tensor, *, cached: bool) -> None:
        """Refuse contexts that do not stand for those of all tokens of a call, by embeddings (B, T, E)."""
        if cached:
            raise ValueError("contexts were collected over whole windows: give them without past_key_values")
        expected = (*embeds.shape[:2], self.context_width)
        if contexts.shape != expected:
            raise ValueError(f"contexts must be (batch, tokens, width) = {expected}, got {tuple(contexts.shape)}")

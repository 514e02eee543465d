"""Base of the models that stand on another model's token embedding: frozen, and the head too, by default."""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from newllm.models.config import BorrowedEmbeddingConfig
from newllm.models.recipe import CONTEXTS
from newllm.models.recurrent import RecurrentModel


class BorrowedEmbeddingModel(RecurrentModel):
    """Token embedding and a head, tied to it by default, around recurrences that read the embedding.

    The embedding is random until `newllm.training.embeddings.adopt_embedding` gives it what another model knows.
    A subclass makes its recurrences and other parts and calls ``post_init``, which ties the head.
    """

    config_class = BorrowedEmbeddingConfig
    recipe = CONTEXTS
    _tied_weights_keys = {"embed_out.weight": "embed_in.weight"}  # noqa: RUF012 (transformers reads it so)

    def __init__(self, config: BorrowedEmbeddingConfig) -> None:
        super().__init__(config)
        self.embed_in = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_out = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        """Tie the head where the config says so, and freeze the embedding likewise.

        Both are done here, because this is what transformers calls last when it builds a model and when it loads one,
        which makes all weights trainable.
        """
        super().tie_weights(missing_keys, recompute_mapping)
        self.embed_in.requires_grad_(not self.config.freeze_embedding)

    @property
    def data_split(self) -> Literal["disjoint", "full"]:
        """What each context block is trained on, as the config says."""
        return self.config.data_split

    @property
    def reads_previous_contexts(self) -> bool:
        """Whether token i is read beside the contexts before it, not beside those after it."""
        return False

    def as_read(self, after: Tensor, state: Tensor | None = None) -> Tensor:
        """Turn the contexts after each token (B, T, P) into those that the model reads beside it.

        Parameters
        ----------
        after
            Contexts after each token, all blocks' together.
        state
            Contexts before the first token (B, P); zero where omitted.
        """
        if not self.reads_previous_contexts:
            return after
        first = torch.zeros_like(after[:, 0]) if state is None else state
        return torch.cat([first[:, None], after[:, :-1]], dim=1)

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.embed_in

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Exchange the token embedding, as resizing it does."""
        self.embed_in = cast(nn.Embedding, value)

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Exchange the output embedding, as resizing it does."""
        self.embed_out = new_embeddings

    def get_output_embeddings(self) -> nn.Module:
        """Return the output embedding, which shares its weight with the token embedding where they are tied."""
        return self.embed_out

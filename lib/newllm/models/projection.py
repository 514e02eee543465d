"""The recurrence that compresses the past: DiverseProjection and its initialisation."""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INIT_STD = 0.1
INIT_BIAS_STD = 0.01


def init_linear_weights(module: nn.Module) -> None:
    """Draw every Linear below ``module`` as N(0, 0.1^2), its bias as N(0, 0.01^2).

    Parameters
    ----------
    module
        Any module; only its ``nn.Linear`` descendants (and itself) change.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=INIT_STD)
            if part.bias is not None:
                nn.init.normal_(part.bias, std=INIT_BIAS_STD)


def weight_of(linear: nn.Linear) -> Tensor:
    """Return a weight that is used without calling its module; TypeError where calling it would do more than multiply.

    What wraps a module (an adapter, a quantised weight) acts when it is called, and would be left out in silence.
    """
    if type(linear).forward is not nn.Linear.forward:
        raise TypeError(
            f"a {type(linear).__module__}.{type(linear).__name__} stands where the model reads a Linear's weight "
            "itself: leave that module out of the adapter's target_modules, or merge the adapter"
        )
    return linear.weight


class RecurrenceLinear(nn.Linear):
    """A Linear drawn by `init_linear_weights`, also where a whole model draws its weights."""

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init_linear_weights(self)


class DiverseProjectionLayer(nn.Module):
    """One step of the recurrence, ``c' = LN(r(c) + GELU(W [c ; e] + b))``.

    ``r`` is the identity where the widths of ``c`` and ``c'`` agree, and a learned ``residual_proj`` otherwise. No
    model here reaches the latter, as a recurrence feeds its own output: it is part of the layer's definition, for
    stacks of layers that change the width.

    Parameters
    ----------
    proj_input_dim
        Width of the previous context ``c``.
    proj_output_dim
        Width P of the next context ``c'``.
    token_input_dim
        Width E of the token's embedding ``e``.
    """

    def __init__(self, proj_input_dim: int, proj_output_dim: int, token_input_dim: int) -> None:
        super().__init__()
        self.proj_input_dim = proj_input_dim
        self.proj_output_dim = proj_output_dim
        self.token_input_dim = token_input_dim
        self.linear = RecurrenceLinear(proj_input_dim + token_input_dim, proj_output_dim)
        self.norm = nn.LayerNorm(proj_output_dim, eps=1e-5)
        self.residual_proj = (
            RecurrenceLinear(proj_input_dim, proj_output_dim) if proj_input_dim != proj_output_dim else None
        )

    def token_part(self, embeds: Tensor) -> Tensor:
        """``W_e e + b``, the part of the step that needs no context: (..., E) -> (..., P)."""
        return F.linear(embeds, weight_of(self.linear)[:, self.proj_input_dim :], self.linear.bias)

    def context_part(self, prev: Tensor, token_part: Tensor) -> Tensor:
        """Finish the step from `token_part`: (..., P) and (..., P) -> (..., P)."""
        mixed = F.linear(prev, weight_of(self.linear)[:, : self.proj_input_dim]) + token_part
        residual = prev if self.residual_proj is None else self.residual_proj(prev)
        return self.norm(residual + F.gelu(mixed))

    def forward(self, prev: Tensor, embeds: Tensor) -> Tensor:
        """Next contexts (..., P) from previous contexts (..., P_in) and embeddings (..., E)."""
        return self.context_part(prev, self.token_part(embeds))


class DiverseProjection(nn.Module):
    """The recurrence ``c_i = LN(c_{i-1} + GELU(W [c_{i-1} ; e_i] + b))``, with ``c_{-1} = 0``.

    Parameters
    ----------
    embed_dim
        Width E of the normed token embeddings.
    proj_dim
        Width P of a context.
    """

    def __init__(self, embed_dim: int, proj_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.proj_dim = proj_dim
        self.layer = DiverseProjectionLayer(proj_dim, proj_dim, embed_dim)

    def forward(self, prev: Tensor, embeds: Tensor) -> Tensor:
        """One step for any number of tokens side by side: (..., P) and (..., E) -> (..., P)."""
        return self.layer(prev, embeds)

    def unroll(self, embeds: Tensor, state: Tensor | None = None, token_mask: Tensor | None = None) -> Tensor:
        """Run the recurrence along time, token by token.

        Parameters
        ----------
        embeds
            Normed embeddings (B, T, E).
        state
            Context before the first token (B, P); zero where omitted.
        token_mask
            True where a real token stands (B, T); a padding token leaves the context unchanged.

        Returns
        -------
        Tensor
            Contexts after each token (B, T, P).
        """
        token_parts = self.layer.token_part(embeds)
        context = embeds.new_zeros(embeds.shape[0], self.proj_dim) if state is None else state
        contexts = []
        for position, token_part in enumerate(token_parts.unbind(1)):
            following = self.layer.context_part(context, token_part)
            if token_mask is not None:
                following = torch.where(token_mask[:, position, None], following, context)
            context = following
            contexts.append(context)
        return torch.stack(contexts, 1)


def unroll_side_by_side(
    blocks: Iterable[nn.Module], embeds: Tensor, state: Tensor | None = None, token_mask: Tensor | None = None
) -> Tensor:
    """Run several recurrences, independent of each other, over the same embeddings.

    Parameters
    ----------
    blocks
        Each a `DiverseProjection`; widths P_1, ..., P_N may differ.
    embeds
        Normed embeddings (B, T, E).
    state
        Contexts before the first token (B, P_1 + ... + P_N); zero where omitted.
    token_mask
        True where a real token stands (B, T); a padding token leaves the contexts unchanged.

    Returns
    -------
    Tensor
        Contexts after each token (B, T, P_1 + ... + P_N), one block's behind the other's.
    """
    recurrences = cast(list[DiverseProjection], list(blocks))
    widths = [block.proj_dim for block in recurrences]
    states = [None] * len(widths) if state is None else state.split(widths, dim=-1)
    contexts = [block.unroll(embeds, before, token_mask) for block, before in zip(recurrences, states, strict=True)]
    return torch.cat(contexts, dim=-1)

"""Whether decoding through a cache equals the full pass."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from newllm.evaluation.probing import (
    EXACT,
    logits_in_pieces,
    period_of,
    positions_of,
    probe_copy,
    probe_generator,
    random_tokens,
    untouched_randomness,
)
from newllm.models.language_model import LanguageModel

SHORT_LENGTH = 12
PADDINGS = (0, 2, 5)


@dataclass(frozen=True)
class CacheAgreement:
    """How far cached logits are from uncached ones, in float64.

    Attributes
    ----------
    errors
        Largest difference by case. "crop refused" is 0 where a model with a recurrent state refuses to crop without a
        recording, and infinite where it does not.
    scale
        Largest logit; rounding grows with it.
    """

    errors: dict[str, float]
    scale: float

    @property
    def max_error(self) -> float:
        """Largest difference over all cases."""
        return max(self.errors.values())

    @property
    def agrees(self) -> bool:
        """Whether every difference is rounding: 1e-9 of the logits' scale."""
        return self.max_error <= EXACT * max(1.0, self.scale)


@torch.no_grad()
def cached_equals_uncached(model: PreTrainedModel) -> CacheAgreement:
    """Compare logits through the cache with those of a full pass, in every way that generation uses a cache.

    Parameters
    ----------
    model
        Any causal language model of transformers' kind; a float64 copy runs.

    Returns
    -------
    CacheAgreement
        Largest error of: prefill, chunked prefill, token by token, a left-padded batch (uncached, and prefill then
        decoding), rows reordered as by beam search, rows repeated and selected, crop by many lengths.
    """
    probed = probe_copy(model)
    with untouched_randomness(probed.device):
        return _Comparison(probed).run()


class _Comparison:
    """The same tokens, uncached and through the cache in different ways."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        # Two whole periods and the beginning of a third, whatever the padding takes away.
        self.length = max(SHORT_LENGTH, 2 * period_of(model) + 2 + max(PADDINGS))
        self.half = self.length // 2
        generator = probe_generator()
        self.tokens = random_tokens(model, len(PADDINGS), self.length, generator)
        self.other = random_tokens(model, len(PADDINGS), self.length, generator)
        self.full = model(self.tokens, use_cache=False).logits

    def one_by_one(self, first: int, total: int) -> list[int]:
        return [first, *[1] * (total - first)]

    def run(self) -> CacheAgreement:
        errors = {
            "prefill": self.in_pieces([self.length]),
            "chunked prefill": self.in_pieces([self.length // 3, 1, self.length - self.length // 3 - 1]),
            "token by token": self.in_pieces([1] * self.length),
            **self.left_padded(),
            "beam reorder": self.rows_moved(),
            "repeat and select": self.rows_repeated(),
            **self.cropped(),
        }
        return CacheAgreement(errors, self.full.abs().max().item())

    def in_pieces(self, pieces: list[int]) -> float:
        return _distance(logits_in_pieces(self.model, self.tokens, pieces)[0], self.full)

    def left_padded(self) -> dict[str, float]:
        """Rows of different lengths in one batch, each against its own unpadded pass."""
        ids, mask = self.other.clone(), torch.zeros_like(self.tokens)
        for row, padding in enumerate(PADDINGS):
            ids[row, padding:] = self.tokens[row, : self.length - padding]
            mask[row, padding:] = 1
        arguments = {"attention_mask": mask, "position_ids": positions_of(mask)}
        ways = {
            "left padding, uncached": self.model(ids, use_cache=False, **arguments).logits,
            "left padding, decoded": logits_in_pieces(
                self.model, ids, self.one_by_one(self.half, self.length), attention_mask=mask
            )[0],
        }
        return {
            name: max(
                _distance(logits[row, padding:], self.full[row, : self.length - padding])
                for row, padding in enumerate(PADDINGS)
            )
            for name, logits in ways.items()
        }

    def continued(self, cache: Cache, before: Tensor, after: Tensor, mask: Tensor | None = None) -> float:
        """Decode ``after`` (B, S) through the cache of ``before`` (B, R), against a full pass over both."""
        tokens = torch.cat([before, after], dim=1)
        arguments = {}
        if mask is not None:
            mask = torch.cat([mask[:, : before.shape[1]], torch.ones_like(after)], dim=1)
            arguments = {"attention_mask": mask, "position_ids": positions_of(mask)}
        expected = self.model(tokens, use_cache=False, **arguments).logits[:, before.shape[1] :]
        pieces = [2, *[1] * (after.shape[1] - 2)]
        return _distance(logits_in_pieces(self.model, after, pieces, mask, cache)[0], expected)

    def rows_moved(self) -> float:
        order = torch.tensor([2, 0, 0], device=self.model.device)
        _, cache = logits_in_pieces(self.model, self.tokens[:, : self.half], [self.half])
        cache.reorder_cache(order)  # type: ignore[arg-type]
        return self.continued(cache, self.tokens[order, : self.half], self.other[:, self.half :])

    def rows_repeated(self) -> float:
        kept = torch.tensor([5, 1, 2], device=self.model.device)
        _, cache = logits_in_pieces(self.model, self.tokens[:, : self.half], [self.half])
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(kept)
        return self.continued(cache, self.tokens[kept // 2, : self.half], self.other[:, self.half :])

    def cropped(self) -> dict[str, float]:
        """Take tokens back, from one to past the middle of the sequence, and go on with others."""
        stateful = self.model._is_stateful
        errors = {"crop refused": self.crop_refused()} if stateful else {}
        mask = torch.ones_like(self.tokens)
        for row, padding in enumerate(PADDINGS):
            mask[row, :padding] = 0
        for name, attention_mask in (("crop", None), ("crop, left padding", mask)):
            for removed in range(1, self.length - self.half + 2, 1 + self.length // 16):
                cache = self.new_cache()
                if stateful:
                    cache.activate_past_recording()
                pieces = [self.half, self.length - self.half]
                _, cache = logits_in_pieces(self.model, self.tokens, pieces, attention_mask, cache)
                if not stateful and not cache.is_croppable:
                    return errors
                cache.crop(-removed)
                before, after = self.tokens[:, : self.length - removed], self.other[:, : removed + 2]
                error = self.continued(cache, before, after, attention_mask)
                errors[name] = max(errors.get(name, 0.0), error)
        return errors

    def new_cache(self) -> Cache:
        if isinstance(self.model, LanguageModel):
            return self.model.new_cache()
        return DynamicCache(config=self.model.config)

    def crop_refused(self) -> float:
        _, cache = logits_in_pieces(self.model, self.tokens, [self.length])
        try:
            cache.crop(-1)
        except RuntimeError:
            return 0.0
        return math.inf


def _distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference; NaN counts as infinite."""
    return (found - expected).abs().nan_to_num(math.inf).max().item()

"""A model of ours as EleutherAI's lm-evaluation-harness sees it: its own adapter, by our tokens and through our cache.

It needs the extra ``eval``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm.data.tokenizers import encode_text
from newllm.evaluation.endings import checked_window
from newllm.evaluation.perplexity import refuse_non_finite, rows_at_once
from newllm.evaluation.probing import logits_in_pieces, pieces_of
from newllm.runs.saved_model import load_trained_model
from newllm.runtime import move

# What a task may say of generation, beside where it ends. `generate` itself would take more: code of the hub, too.
GENERATION_SETTINGS = ("do_sample", "temperature", "top_k", "top_p", "num_beams", "repetition_penalty")


class TaskError(ValueError):
    """A task that cannot be run; one sentence says why and what there is."""


@register_model("newllm")
class HarnessModel(HFLM):
    """A model for the harness; ``newllm`` in its registry, once this module is imported.

    Text is the text's own tokens alone, whatever the tokenizer's template would add; a text without any context stands
    after one token that begins or ends texts.

    Parameters
    ----------
    pretrained
        A model; or where one is, as `newllm.runs.saved_model.load_trained_model` takes it.
    tokenizer
        The tokenizer of a model that was given as such.
    method
        Put the weights of what is loaded into another model, such as ``ka``.
    window
        Tokens that the model reads at most; its longest sequence where omitted (2048 for models without one).
    batch_size
        Texts at once, at most; fewer where their logits would not fit in 256 MB.
    device
        Where to run; where the model is, where omitted.
    tokens_a_step
        None scores a text in one pass. A number sends it through the cache, that many tokens a call.
    """

    def __init__(
        self,
        pretrained: PreTrainedModel | str,
        tokenizer: PreTrainedTokenizerFast | None = None,
        *,
        method: str | None = None,
        window: int | None = None,
        batch_size: int | str = 8,
        device: torch.device | str | None = None,
        tokens_a_step: int | None = None,
    ) -> None:
        if isinstance(pretrained, str):
            loaded = load_trained_model(pretrained, method=method)
            pretrained, tokenizer = loaded.model, loaded.tokenizer
        elif tokenizer is None:
            raise TaskError("a model needs its tokenizer: pass it too.")
        if device is not None:
            move(pretrained, device)
        self._texts_at_once = int(batch_size)
        self._tokens_a_step = tokens_a_step
        super().__init__(
            pretrained,
            backend="causal",
            tokenizer=tokenizer,
            max_length=checked_window(pretrained, window),
            batch_size=self._texts_at_once,
        )

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Ids of a text, its own alone; the last ``left_truncate_len`` of them."""
        return encode_text(self.tokenizer, string)[-(left_truncate_len or 0) :]

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Ids of texts (B, T), padded, and their mask."""
        rows = [
            self.tok_encode(text, left_truncate_len=left_truncate_len) or [self.prefix_token_id] for text in strings
        ]
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side=padding_side, return_tensors="pt")
        return padded["input_ids"], padded["attention_mask"]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the model's first guess.

        Raises
        ------
        TaskError
            A continuation without a token of its own, or one that does not fit into the window; names the document.
        """
        for request in requests:
            context, continuation = request.args
            asked = self._encode_pair(context, continuation)[1] if context else self.tok_encode(continuation)
            if not continuation or not asked:
                self._refuse(request, f"the choice {continuation!r} holds nothing that could be scored")
            if len(asked) > self.max_length:
                self._refuse(request, f"an answer of {len(asked)} tokens does not fit into {self.max_length} tokens")
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return answers

    def _refuse(self, request: Instance, reason: str) -> None:
        raise TaskError(f"task {request.task_name}, document {request.doc_id}: {reason}.")

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        longest = max((len(context) + len(continuation) for _, context, continuation in requests), default=1)
        tokens = min(longest, self.max_length + 1)
        self.batch_size_per_gpu = rows_at_once(self._texts_at_once, tokens, self.model.config.vocab_size)
        # The windows of a rolling text come batch by batch: they need no bar each.
        quiet = disable_tqdm or override_bs is not None
        answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, quiet, override_bs)
        return answers

    @torch.no_grad()
    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of token ids (B, T), in one pass or through the cache."""
        if self._tokens_a_step is None:
            logits: Tensor = self.model(inps, use_cache=False).logits
        else:
            logits = logits_in_pieces(self.model, inps, pieces_of(inps.shape[1], self._tokens_a_step))[0]
        refuse_non_finite(logits)
        return logits

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each text, greedily unless its task says otherwise, until a stop sequence of the task.

        Raises
        ------
        TaskError
            A setting that no task may choose, or more tokens than the window holds.
        """
        for request in requests:
            settings = dict(normalize_gen_kwargs(request.args[1], self.max_gen_toks))
            refuse_generation_settings(settings)
            if settings["max_gen_toks"] >= self.max_length:
                raise TaskError(
                    f"the task generates {settings['max_gen_toks']} tokens (max_gen_toks), but the model's window is "
                    f"{self.max_length}."
                )
        self.batch_size_per_gpu = self._texts_at_once
        texts: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        return texts


def refuse_generation_settings(settings: dict[str, Any]) -> None:
    """Raise `TaskError` for a generation setting that no task may choose."""
    known = ("until", "max_gen_toks", *GENERATION_SETTINGS)
    for name in settings:
        if name not in known:
            raise TaskError(f"generation_kwargs has {name}, which a task may not set; there are {', '.join(known)}.")

"""What a model says after a prompt, so that a reader sees what its numbers mean."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm.config.groups import EvaluationParameters
from newllm.data.tokenizers import encode_text


def continue_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, parameters: EvaluationParameters
) -> Iterator[tuple[str, str]]:
    """Continue the prompts greedily; yields each with its continuation."""
    for prompt in parameters.prompts:
        yield prompt, continue_ids(model, tokenizer, encode_text(tokenizer, prompt), parameters.continuation_tokens)


@torch.no_grad()
def continue_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], tokens: int) -> str:
    """Continue one text greedily.

    Parameters
    ----------
    model, tokenizer
        The model, and its tokenizer.
    ids
        Of the text, at least one.
    tokens
        Most tokens that are written.

    Returns
    -------
    str
        What stands behind the text.
    """
    given = torch.tensor([list(ids)], device=model.device)
    generated = cast(Any, model).generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=tokens,
        do_sample=False,
        # Ids beyond the tokenizer's are padding of the vocabulary and stand for no text.
        suppress_tokens=list(range(len(tokenizer), model.config.vocab_size)) or None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return str(tokenizer.decode(generated[0, len(ids) :], skip_special_tokens=True))

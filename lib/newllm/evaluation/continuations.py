"""What a model says after a prompt, so that a reader sees what its numbers mean."""

from collections.abc import Iterator

import torch
from transformers import PreTrainedTokenizerFast

from newllm.config.groups import EvaluationParameters
from newllm.data.tokenizers import encode_text
from newllm.models.language_model import LanguageModel


@torch.no_grad()
def continue_prompts(
    model: LanguageModel, tokenizer: PreTrainedTokenizerFast, parameters: EvaluationParameters
) -> Iterator[tuple[str, str]]:
    """Continue the prompts greedily; yields each with its continuation."""
    for prompt in parameters.prompts:
        ids = torch.tensor([encode_text(tokenizer, prompt)], device=model.device)
        generated = model.generate(  # type: ignore[misc]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=parameters.continuation_tokens,
            do_sample=False,
            # Ids beyond the tokenizer's are padding of the vocabulary and stand for no text.
            suppress_tokens=list(range(len(tokenizer), model.config.vocab_size)) or None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        yield prompt, str(tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True))

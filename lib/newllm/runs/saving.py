"""A trained model and its tokenizer, saved so that they can be loaded and used without knowing how they were made."""

import copy
from pathlib import Path

from transformers import PreTrainedTokenizerFast
from transformers.utils import CONFIG_NAME

from newllm.models.language_model import LanguageModel


def save_trained_model(folder: Path, model: LanguageModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save weights, config and tokenizer into one folder.

    The config takes over the tokenizer's special tokens, so that generation ends and pads by them. The saved tokenizer
    pads on the left, as generation needs, and gives the model nothing that it does not read.

    Parameters
    ----------
    folder
        Where to; made where it is missing.
    model
        The model.
    tokenizer
        The tokenizer that it was trained with; without a padding token, its end-of-text token pads.
    """
    saved = copy.deepcopy(tokenizer)
    for name, value in (("padding_side", "left"), ("model_input_names", ["input_ids", "attention_mask"])):
        # A tokenizer saves the values of those attributes that it was made with.
        saved.init_kwargs[name] = value
        setattr(saved, name, value)
    if saved.pad_token is None:
        saved.pad_token = saved.eos_token
    for settings in (model.config, model.generation_config):
        if settings is not None:
            settings.bos_token_id = saved.bos_token_id
            settings.eos_token_id = saved.eos_token_id
            settings.pad_token_id = saved.pad_token_id
    model.save_pretrained(folder)
    # safetensors writes files that their owner alone can read.
    for weights in folder.glob("*.safetensors"):
        weights.chmod((folder / CONFIG_NAME).stat().st_mode)
    saved.save_pretrained(folder)

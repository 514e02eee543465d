"""What can be retrofitted: the baseline on either backbone, from here or from transformers."""

from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from newllm.models.backbones import LlamaLayer, NeoXLayer
from newllm.models.methods.pythia import PythiaConfig, PythiaModel
from newllm.models.published_llama import READERS

GPT_NEOX = "gpt_neox"


def config_of(parent: PythiaModel) -> PythiaConfig:
    """Return the config of a baseline, by its type."""
    return cast(PythiaConfig, parent.config)


def blocks_of(parent: PythiaModel) -> list[NeoXLayer | LlamaLayer]:
    """Return the blocks of a baseline."""
    return [cast(NeoXLayer | LlamaLayer, layer) for layer in parent.stack.layers]


def as_baseline(model: PreTrainedModel) -> PythiaModel:
    """Return a trained model as the baseline of this project; the weights of transformers' models are copied.

    Raises
    ------
    ValueError
        For a model of another family, or one whose config asks for what is not computed here.
    """
    if type(model) is PythiaModel:
        return model
    kind = getattr(getattr(model, "config", None), "model_type", "")
    if (kind != GPT_NEOX and kind not in READERS) or not type(model).__name__.endswith("ForCausalLM"):
        raise ValueError(
            f"a {type(model).__name__} cannot be retrofitted: give a pythia or a llama of this project, or a GPT-NeoX, "
            "Llama or Qwen2 of transformers"
        )
    config: Any = PythiaConfig.from_dict(model.config.to_dict())
    with torch.device("meta"):
        baseline = PythiaModel(config)
    nn.Module.to(baseline.to_empty(device=model.device), model.dtype)
    # transformers holds the head of GPT-NeoX under another name than it saves it under.
    state = model.state_dict()
    if kind == GPT_NEOX:
        state = {name.replace("lm_head.", "embed_out."): weight for name, weight in state.items()}
    baseline.load_state_dict(state)
    baseline.tie_weights()
    return baseline.eval()

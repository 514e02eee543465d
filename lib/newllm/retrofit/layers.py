"""Layers that share keys and values: those of a run of neighbouring layers are averaged (Brandon et al. 2024).

The first layer of a run makes them from its own input. What the weights of the others would make of theirs is another
thing, because their inputs differ: of the three ways of retrofitting here this one loses most before it is healed.
"""

from collections.abc import Sequence

import torch

from newllm.config.retrofit import RetrofitParameters
from newllm.models.methods.cla import CLAPythiaModel, CrossLayerAttention
from newllm.models.methods.pythia import PythiaModel
from newllm.retrofit.heads import Heads, fill
from newllm.retrofit.latent import copy_rest
from newllm.retrofit.parents import config_of
from newllm.retrofit.planning import cla_config
from newllm.runtime import move


def build_sharing_model(parent: PythiaModel, heads: Sequence[Heads], parameters: RetrofitParameters) -> CLAPythiaModel:
    """Build the model whose layers share keys and values, each run's weights averaged."""
    model = CLAPythiaModel(cla_config(config_of(parent), parameters))
    torch.nn.Module.to(model, parent.dtype)
    copy_rest(parent, model)
    for number, (layer, part) in enumerate(zip(model.stack.layers, heads, strict=True)):
        attention = layer.attention
        assert isinstance(attention, CrossLayerAttention)
        fill(attention.query, part.queries.flatten(0, 1), part.query_bias.flatten())
        fill(attention.dense, part.output.flatten(1), part.output_bias)
        if attention.is_first:
            run = heads[number : number + parameters.layers_sharing]
            weight, bias = (
                torch.cat([torch.stack([getattr(one, name) for one in run]).mean(0) for name in names])
                for names in (("keys", "values"), ("key_bias", "value_bias"))
            )
            fill(attention.key_value, weight.flatten(0, 1), bias.flatten())
    move(model, parent.device)
    return model.eval()

"""Healing: some training of a converted model, by the text or by what the original says of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from newllm.config.retrofit import RetrofitParameters
from newllm.models.attention import Attention
from newllm.models.decoder import Decoder
from newllm.models.language_model import LanguageModel
from newllm.training.main import TrainingData, train


def heal(
    model: Decoder, teacher: LanguageModel, data: TrainingData, parameters: RetrofitParameters, folder: Path, seed: int
) -> None:
    """Train a model in place for one pass over the windows, resumably; what stays out of training is given back.

    Parameters
    ----------
    model
        The converted model.
    teacher
        The original, which healing by ``kl`` follows.
    data
        Windows to heal on, and held-out windows.
    parameters
        What is trained, how, and by which loss.
    folder
        Where checkpoints and the result go.
    seed
        Decides the batch order.
    """
    changed = {id(weight) for part in model.modules() if isinstance(part, Attention) for weight in part.parameters()}
    before = {name: weight.requires_grad for name, weight in model.named_parameters()}
    try:
        for weight in model.parameters():
            weight.requires_grad_(parameters.healing_parts == "all" or id(weight) in changed)
        with following(model, teacher if parameters.healing_loss == "kl" else None):
            train(model, data, parameters.training, folder, seed=seed, device=model.device)
    finally:
        for name, weight in model.named_parameters():
            weight.requires_grad_(before[name])
    model.eval()


@contextmanager
def following(model: LanguageModel, teacher: LanguageModel | None) -> Iterator[None]:
    """Let a model's loss in training be the divergence KL(teacher || model), in nats a token (Hinton et al. 2015).

    Held-out losses stay cross-entropies. None leaves all as it is.
    """
    if teacher is None:
        yield
        return
    teacher.eval()
    score = model.score

    def divergence(
        hidden: Tensor,
        labels: Tensor | None,
        logits_to_keep: int | Tensor = 0,
        num_items: Tensor | int | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        if labels is None or not model.training:
            return score(hidden, labels, logits_to_keep, num_items)
        # Windows hold no padding, so labels are the tokens themselves.
        with torch.no_grad():
            wanted = teacher(labels[:, :-1], use_cache=False).logits.log_softmax(-1)
        said = model.get_output_embeddings()(hidden[:, :-1]).log_softmax(-1)
        total = F.kl_div(said.flatten(0, 1), wanted.flatten(0, 1), log_target=True, reduction="sum")
        return total / (wanted[..., 0].numel() if num_items is None else num_items), None

    # Set on the object alone, past nn.Module, which would take it for a part.
    vars(model)["score"] = divergence
    try:
        yield
    finally:
        del vars(model)["score"]


@torch.no_grad()
def with_random_attention(model: Decoder, seed: int) -> Decoder:
    """Give every part of a model's attention the weights of a fresh one, in place: the control of what was kept."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in model.modules():
            if isinstance(part, Attention):
                part.apply(lambda module: _draw(module, model.config.initializer_range))
    return model


def _draw(module: nn.Module, scale: Any) -> None:
    if isinstance(module, nn.Linear):
        module.weight.normal_(0, scale)
        if module.bias is not None:
            module.bias.zero_()

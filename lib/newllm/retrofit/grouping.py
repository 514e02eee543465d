"""Heads that share keys and values: those of a group are averaged, as they are or after they were turned to each other.

A head's values may be turned by any rotation R, if the last linear map reads R^T of them; the entries of its keys that
RoPE does not turn likewise, if its queries are turned too; a pair that RoPE turns may be turned by an angle. None of
that changes the model. Averaging does, and by less where heads that are averaged point the same way: R is found by
Procrustes' problem (Schoenemann 1966) on the calibration text, in turns with the average (GQA: Ainslie et al. 2023;
aligned: Jin et al. 2024, "Align attention heads before merging them").
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from newllm.config.retrofit import RetrofitParameters
from newllm.models.attention import MultiHeadAttention
from newllm.models.methods.pythia import PythiaConfig, PythiaModel
from newllm.retrofit.calibration import Moments
from newllm.retrofit.heads import Heads, read_heads, write_heads
from newllm.retrofit.latent import copy_rest
from newllm.retrofit.parents import blocks_of, config_of
from newllm.retrofit.planning import shape_of, shared_fields
from newllm.runtime import move

ROUNDS = 10


def build_grouped_model(
    parent: PythiaModel, heads: Sequence[Heads], moments: Sequence[Moments], parameters: RetrofitParameters
) -> tuple[PythiaModel, list[float]]:
    """Build the baseline with fewer key-value heads, and say what share of the energy each layer has lost."""
    theirs, left = config_of(parent), parameters.num_key_value_heads
    config = PythiaConfig(
        **shared_fields(theirs),
        position=theirs.position,
        num_key_value_heads=left,
        attention_biases=theirs.bias_of_attention(),
    )
    model = PythiaModel(config)
    torch.nn.Module.to(model, parent.dtype)
    copy_rest(parent, model)
    rotary_dim = shape_of(theirs, parameters).rotary_dim
    lost = []
    for layer, part, seen in zip(blocks_of(model), heads, moments, strict=True):
        if parameters.averaging == "aligned":
            part = align(part, left, rotary_dim, seen)
        averaged = average(part, left)
        lost.append(_energy_lost(part, averaged, seen))
        write_heads(cast(MultiHeadAttention, layer.attention), averaged)
    move(model, parent.device)
    return model.eval(), lost


def average(heads: Heads, left: int) -> Heads:
    """Average the keys and values of neighbouring heads, so that ``left`` of them are left."""
    names = ("keys", "values", "key_bias", "value_bias")
    return replace(heads, **{name: getattr(heads, name).unflatten(0, (left, -1)).mean(1) for name in names})


def align(heads: Heads, left: int, rotary_dim: int, moments: Moments) -> Heads:
    """Turn the heads of each group to their average, which changes nothing of what the layer computes.

    Parameters
    ----------
    heads
        Of one layer.
    left
        Groups, of neighbouring heads.
    rotary_dim
        Entries of a head, the first ones, that RoPE turns.
    moments
        Of the layer's input, by which the lengths of vectors are measured.
    """
    count = len(heads.keys)
    spread = moments.with_constant
    keys, values = (
        torch.cat([w, b[..., None]], -1) for w, b in ((heads.keys, heads.key_bias), (heads.values, heads.value_bias))
    )
    of_keys = torch.eye(keys.shape[1], dtype=keys.dtype).repeat(count, 1, 1)
    of_values = torch.eye(values.shape[1], dtype=keys.dtype).repeat(count, 1, 1)
    for group in torch.arange(count).view(left, -1):
        of_values[group] = _turns(values[group], spread, 0)
        of_keys[group] = _turns(keys[group], spread, rotary_dim)
    turned_keys, turned_values = of_keys @ keys, of_values @ values
    queries = torch.cat([heads.queries, heads.query_bias[..., None]], -1)
    turned_queries = of_keys.repeat_interleave(heads.share, 0) @ queries
    output = torch.einsum("dhv,hwv->dhw", heads.output, of_values.repeat_interleave(heads.share, 0))
    return Heads(
        turned_queries[..., :-1],
        turned_keys[..., :-1],
        turned_values[..., :-1],
        turned_queries[..., -1],
        turned_keys[..., -1],
        turned_values[..., -1],
        output,
        heads.output_bias,
    )


def _turns(rows: Tensor, spread: Tensor, rotary_dim: int) -> Tensor:
    """Rotations (heads, w, w) that bring weights (heads, w, d + 1) nearest to their common mean."""
    width, half = rows.shape[1], rotary_dim // 2
    turns = torch.eye(width, dtype=rows.dtype).repeat(len(rows), 1, 1)
    for _ in range(ROUNDS):
        mean = (turns @ rows).mean(0)
        # Cross-covariance of the mean and each head, (heads, w, w).
        cross = mean @ spread @ rows.mT
        turns = torch.zeros_like(turns)
        if half:
            first, second = torch.arange(half), torch.arange(half, rotary_dim)
            angle = torch.atan2(
                cross[:, second, first] - cross[:, first, second], cross[:, first, first] + cross[:, second, second]
            )
            turns[:, first, first] = turns[:, second, second] = angle.cos()
            turns[:, second, first], turns[:, first, second] = angle.sin(), -angle.sin()
        if rotary_dim < width:
            left, _, right = torch.linalg.svd(cross[:, rotary_dim:, rotary_dim:])
            turns[:, rotary_dim:, rotary_dim:] = left @ right
    return turns


def _energy_lost(heads: Heads, averaged: Heads, moments: Moments) -> float:
    """Share of the energy of keys and values, biases included, that their average does not hold."""
    spread = moments.with_constant
    total = lost = 0.0
    for name, bias in (("keys", "key_bias"), ("values", "value_bias")):
        before = torch.cat([getattr(heads, name), getattr(heads, bias)[..., None]], -1)
        after = torch.cat([getattr(averaged, name), getattr(averaged, bias)[..., None]], -1)
        after = after.repeat_interleave(len(before) // len(after), 0)
        total += float(torch.einsum("hid,de,hie->", before, spread, before))
        lost += float(torch.einsum("hid,de,hie->", before - after, spread, before - after))
    return lost / total if total else 0.0


def read_all(parent: PythiaModel) -> list[Heads]:
    """Take the attention of every layer of a baseline apart."""
    return [read_heads(cast(MultiHeadAttention, layer.attention)) for layer in blocks_of(parent)]

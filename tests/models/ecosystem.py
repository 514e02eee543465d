"""What transformers and its neighbours call of a model, and where it is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newllm.models import create
from tests.models.library_calls import (
    accumulates_gradients,
    adapts_all_linear_maps,
    adapts_called_linear_maps,
    attends_in_another_way,
    changes_its_attention,
    checkpoints_gradients,
    compiles_decoding,
    compiles_padded_rows,
    compiles_training,
    decodes_by_prompt_lookup,
    decodes_with_an_assistant,
    divides_by_num_items,
    loads_by_device_map,
    packs_texts,
    quantises_its_cache,
    quantises_its_weights,
    reads_cache_positions,
    reads_embeddings,
    reads_other_cache_positions,
    reads_second_token_types,
    reads_token_types,
    resizes_embeddings,
    returns_attentions,
    returns_hidden_states,
    runs_in_half_precision,
    shifts_positions,
    smooths_labels,
    stops_at_strings,
    trains_and_evaluates,
    uses_a_paged_cache,
    uses_a_static_cache,
)


@dataclass(frozen=True)
class Call:
    """One call, what it is in words, and the sentence that refuses it where it is refused."""

    words: str
    try_out: Callable[[Any], None]
    refusal: Callable[[Any], str | None] = lambda model: None


def always(sentence: str) -> Callable[[Any], str | None]:
    return lambda model: sentence


def where(condition: Callable[[Any], bool], sentence: str) -> Callable[[Any], str | None]:
    return lambda model: sentence if condition(model) else None


def is_stateful(model: Any) -> bool:
    return model._is_stateful


def has_recurrence(model: Any) -> bool:
    return model.recurrence


def reads_weights(model: Any) -> bool:
    return model.recurrence or model.config.model_type == "newllm-mla"


def keeps_its_own_layers(model: Any) -> bool:
    return not model.reads_cache_through_update


def has_no_blocks(model: Any) -> bool:
    return not model.supports_gradient_checkpointing


CALLS = [
    Call("`Trainer.evaluate()`, `Trainer.predict()`", trains_and_evaluates),
    Call("`gradient_accumulation_steps`, rows with unequal numbers of labels", accumulates_gradients),
    Call("`label_smoothing_factor`", smooths_labels),
    Call("`num_items_in_batch`", divides_by_num_items),
    Call(
        "`activation_checkpointing_enable()`",
        checkpoints_gradients,
        where(has_no_blocks, "does not support activation checkpointing"),
    ),
    Call('LoRA by PEFT, `target_modules="all-linear"`', adapts_all_linear_maps, where(reads_weights, "target_modules")),
    Call("LoRA by PEFT on linear maps that the model calls", adapts_called_linear_maps),
    Call("`inputs_embeds`", reads_embeddings),
    Call("`output_hidden_states`", returns_hidden_states),
    Call("`output_attentions`", returns_attentions, always("never builds attention weights")),
    Call("`token_type_ids` of zeros", reads_token_types),
    Call("`token_type_ids` of other types", reads_second_token_types, always("no token types")),
    Call("`cache_position` behind the cached tokens", reads_cache_positions),
    Call("`cache_position` elsewhere", reads_other_cache_positions, always("cache_position must be 0 to 15")),
    Call("`position_ids`, shifted", shifts_positions),
    Call("texts packed into one row by `position_ids`", packs_texts, where(has_recurrence, "a row of its own")),
    Call("`resize_token_embeddings()`", resizes_embeddings),
    Call("`torch.compile` of a full pass and its loss, as one graph", compiles_training),
    Call("`torch.compile` of a decode step, as one graph", compiles_decoding),
    Call("`torch.compile` with `attention_mask` and `position_ids`, as one graph", compiles_padded_rows),
    Call('`device_map="auto"`', loads_by_device_map),
    Call("bfloat16 and float16", runs_in_half_precision),
    Call("`generate(assistant_model=...)`", decodes_with_an_assistant, where(is_stateful, "stateful")),
    Call("`generate(prompt_lookup_num_tokens=...)`", decodes_by_prompt_lookup, where(is_stateful, "stateful")),
    Call("`generate(stop_strings=...)`", stops_at_strings),
    Call(
        '`generate(cache_implementation="quantized")`',
        quantises_its_cache,
        where(keeps_its_own_layers, "pass model.new_cache()"),
    ),
    Call('`generate(cache_implementation="static")`', uses_a_static_cache, always("pass model.new_cache()")),
    Call('`generate(cache_implementation="paged")`', uses_a_paged_cache, always("no paged cache")),
    Call('`attn_implementation="eager"` and all but `sdpa`', attends_in_another_way, always("scaled_dot_product")),
    Call('`set_attn_implementation("eager")`', changes_its_attention, always("scaled_dot_product")),
    Call("`quantization_config`", quantises_its_weights, always("no quantised weights")),
]
PAGE = Path(__file__).parents[2] / "docs" / "ecosystem.md"
TABLE_BEGINS, TABLE_ENDS = "<!-- table -->", "<!-- end of table -->"


def table(names: list[str]) -> str:
    """What each model does at each call, as the documentation shows it."""
    built = {name: create(name, "tiny") for name in names}
    lines = ["| call | " + " | ".join(names) + " |", "|---|" + ":-:|" * len(names)]
    for call in CALLS:
        cells = ["refused" if call.refusal(model) else "works" for model in built.values()]
        lines.append(f"| {call.words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_table(page: str, names: list[str]) -> str:
    """Put the table of today into the page."""
    before, _, rest = page.partition(TABLE_BEGINS)
    _, _, after = rest.partition(TABLE_ENDS)
    return f"{before}{TABLE_BEGINS}\n\n{table(names)}\n\n{TABLE_ENDS}{after}"

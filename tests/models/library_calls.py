"""Calls that transformers and its neighbours make, each tried out: a model holds what it should, or raises."""

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch._dynamo.utils import counters
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments

from newllm.models import create

IDS = torch.randint(3, 500, (4, 16), generator=torch.Generator().manual_seed(0))
LABELS = IDS.clone()
for row, length in enumerate((16, 4, 8, 2)):
    LABELS[row, length:] = -100
ROWS = [{"input_ids": ids, "labels": labels} for ids, labels in zip(IDS, LABELS, strict=True)]
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}


def trainer(model: Any, **arguments) -> Trainer:
    chosen = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", **arguments}
    return Trainer(
        model=model,
        args=TrainingArguments(tempfile.mkdtemp(), **chosen),
        train_dataset=ROWS,
        eval_dataset=ROWS,
    )


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def trains_and_evaluates(model: Any) -> None:
    made: Any = trainer(model)
    expected = model.eval()(IDS, labels=LABELS).loss.item()
    assert abs(made.evaluate()["eval_loss"] - expected) < 1e-5
    assert made.predict(ROWS).predictions.shape == (4, 16, 512)


def moved(model: Any, rows: int, steps: int) -> torch.Tensor:
    """What one step of plain gradient descent does to all parameters."""
    model = copy.deepcopy(model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer(
        model,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=steps,
        max_steps=1,
        learning_rate=1.0,
        optim="sgd",
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
    ).train()
    changes = [old - new.detach() for old, new in zip(before, model.parameters(), strict=True)]
    return torch.cat([change.flatten() for change in changes])


def accumulates_gradients(model: Any) -> None:
    together, apart = moved(model, 4, 1), moved(model, 1, 4)
    assert together.norm() > 0
    assert (together - apart).norm() / together.norm() < 1e-9


def smooths_labels(model: Any) -> None:
    found = trainer(model, label_smoothing_factor=0.1).evaluate()["eval_loss"]
    logits = model.eval()(IDS).logits[:, :-1].flatten(0, 1)
    # transformers spreads a tenth of the weight over the whole vocabulary, as torch does.
    expected = F.cross_entropy(logits, LABELS[:, 1:].flatten(), label_smoothing=0.1)
    assert abs(found - expected.item()) < 1e-4


def gradients(model: Any) -> torch.Tensor:
    model.zero_grad()
    model(IDS, labels=LABELS).loss.backward()
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])


def checkpoints_gradients(model: Any) -> None:
    model.train()
    expected = gradients(model)
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing
    close(gradients(model), expected)


def divides_by_num_items(model: Any) -> None:
    counted = (LABELS[:, 1:] != -100).sum()
    for training in (True, False):
        mean = model.train(training)(IDS, labels=LABELS).loss
        for number in (100, torch.tensor(100)):
            close(model(IDS, labels=LABELS, num_items_in_batch=number).loss, mean * counted / 100)


def reads_embeddings(model: Any) -> None:
    embeds = model.get_input_embeddings()(IDS)
    close(model(inputs_embeds=embeds).logits, model(IDS).logits)
    generated = model.generate(inputs_embeds=embeds, **GREEDY)
    assert torch.equal(generated, model.generate(IDS, **GREEDY)[:, 16:])


def returns_hidden_states(model: Any) -> None:
    output = model(IDS, output_hidden_states=True)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    close(model.get_output_embeddings()(output.hidden_states[-1]), output.logits)
    assert model(IDS).hidden_states is None


def returns_attentions(model: Any) -> None:
    model(IDS, output_attentions=True)


def reads_token_types(model: Any) -> None:
    close(model(IDS, token_type_ids=torch.zeros_like(IDS)).logits, model(IDS).logits)


def reads_second_token_types(model: Any) -> None:
    model(IDS, token_type_ids=torch.ones_like(IDS))


def reads_cache_positions(model: Any) -> None:
    cache = model.new_cache()
    model(IDS[:, :9], past_key_values=cache, cache_position=torch.arange(9))
    found = model(IDS[:, 9:], past_key_values=cache, cache_position=torch.arange(9, 16)).logits
    close(found, model(IDS).logits[:, 9:])


def reads_other_cache_positions(model: Any) -> None:
    model(IDS, cache_position=torch.arange(16) + 1)


def shifts_positions(model: Any) -> None:
    shifted = torch.arange(16)[None] + 7
    # RoPE computes its angles in float32, whatever the weights.
    expected = model(IDS).logits
    assert (model(IDS, position_ids=shifted).logits - expected).abs().max() < 1e-5
    cache = model.new_cache()
    pieces = [
        model(IDS[:, part], position_ids=shifted[:, part], past_key_values=cache).logits
        for part in (slice(0, 9), slice(9, 10), slice(10, 16))
    ]
    assert (torch.cat(pieces, 1) - expected).abs().max() < 1e-5


def packs_texts(model: Any) -> None:
    positions = torch.cat([torch.arange(6), torch.arange(10)])[None]
    found = model(IDS, position_ids=positions).logits
    close(found, torch.cat([model(IDS[:, :6]).logits, model(IDS[:, 6:]).logits], 1))


def resizes_embeddings(model: Any) -> None:
    before = model(IDS).logits
    model.resize_token_embeddings(600, mean_resizing=False)
    assert model.config.vocab_size == model.get_output_embeddings().weight.shape[0] == 600
    close(model(IDS).logits[..., :512], before)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder, dtype=torch.float64)
    close(loaded(IDS).logits, model(IDS).logits)


def adapt(model: Any, targets: str | list[str]) -> None:
    """Train adapters: they get gradients, change the logits, and change them alike with and without a cache."""
    expected = model(IDS).logits
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    adapted.eval()
    full = adapted(IDS).logits
    assert (full - expected).abs().max() > 1e-6
    cache = model.new_cache()
    pieces = [adapted(part, past_key_values=cache).logits for part in IDS.split([9, 1, 6], 1)]
    close(torch.cat(pieces, 1), full)
    adapted.train()
    adapted(IDS, labels=LABELS).loss.backward()
    trained = {name: value for name, value in adapted.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora" in name and value.grad is not None and value.grad.any() for name, value in trained.items())


def adapts_all_linear_maps(model: Any) -> None:
    adapt(model, "all-linear")


def adapts_called_linear_maps(model: Any) -> None:
    of_backbone = CALLED_BY_BACKBONE[getattr(model.config, "backbone", "neox")]
    adapt(model, CALLED.get(model.config.model_type, of_backbone))


# Linear maps that a decoder calls as modules, and those of a method where they are others.
CALLED_BY_BACKBONE = {
    "neox": ["dense", "dense_h_to_4h", "dense_4h_to_h"],
    "llama": ["q_proj", "o_proj", "gate_proj", "down_proj"],
}
CALLED = {
    "newllm-cascade": ["token_block.linear"],
    "newllm-context-kv": ["query", "dense_h_to_4h", "dense_4h_to_h"],
}


def compiles_training(model: Any) -> None:
    """A full pass and its loss, some labels left out of it, and its gradients."""
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    found, expected = (call(IDS[:, :4], labels=LABELS[:, :4]).loss for call in (as_one_graph(model), model))
    close(found, expected)
    for pair in zip(*(torch.autograd.grad(loss, weights) for loss in (found, expected)), strict=True):
        close(*pair)


def compiles_decoding(model: Any) -> None:
    """The last token ends a chunk, all go beyond a window; a graph for each length would be one compilation a step."""
    with torch.no_grad():
        cache = model(IDS[:, :-3], use_cache=True).past_key_values
        step = as_one_graph(model)
        graphs = counters["stats"]["unique_graphs"]
        logits = [step(IDS[:, index : index + 1], past_key_values=cache).logits for index in range(13, 16)]
        close(torch.cat(logits, 1), model(IDS).logits[:, -3:])
        assert counters["stats"]["unique_graphs"] - graphs <= (3 if model.period > 1 else 2)


def compiles_padded_rows(model: Any) -> None:
    """A mask that pads, and positions; what a graph cannot ask when it is made, it refuses as it runs."""
    mask = torch.ones_like(IDS)
    mask[1, :3] = mask[2, :11] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    call = as_one_graph(model)
    with torch.no_grad():
        for given in (
            {"attention_mask": mask},
            {"attention_mask": mask, "position_ids": positions},
            {"position_ids": torch.arange(16)[None] + 5},
        ):
            found, expected = (each(IDS, use_cache=False, **given).logits for each in (call, model))
            real = mask.bool() if "attention_mask" in given else slice(None)
            close(found[real], expected[real])
        with pytest.raises(RuntimeError, match="attention_mask must be 1 for real tokens"):
            call(IDS, use_cache=False, attention_mask=-mask)
        if model.recurrence:
            with pytest.raises(RuntimeError, match="position_ids must go up by one"):
                call(IDS, use_cache=False, position_ids=2 * positions, attention_mask=mask)
        else:
            packed = torch.arange(16).remainder(9)[None]
            found, expected = (each(IDS, use_cache=False, position_ids=packed).logits for each in (call, model))
            close(found, expected)


def as_one_graph(model: Any) -> Callable[..., Any]:
    """Compile the model's call; a break in its graph raises."""
    torch._dynamo.reset()
    return torch.compile(model, backend="eager", fullgraph=True)


def loads_by_device_map(model: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder, device_map="auto", dtype=torch.float64)
        close(loaded(IDS).logits, model(IDS).logits)


def runs_in_half_precision(model: Any) -> None:
    expected = model(IDS).logits
    for dtype in (torch.bfloat16, torch.float16):
        half: Any = copy.deepcopy(model).to(dtype)
        logits = half(IDS).logits
        assert logits.dtype is dtype
        assert (logits.double() - expected).abs().max() < 0.05 * expected.abs().max()
        half.generate(IDS, **GREEDY)


def decodes_with_an_assistant(model: Any) -> None:
    torch.manual_seed(1)
    assistant = create("pythia", "tiny").double().eval()
    assistant.generation_config.eos_token_id = None
    assert torch.equal(model.generate(IDS[:1], assistant_model=assistant, **GREEDY), model.generate(IDS[:1], **GREEDY))


def decodes_by_prompt_lookup(model: Any) -> None:
    ids = IDS[:1].repeat(1, 2)
    assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=3, **GREEDY), model.generate(ids, **GREEDY))


def stops_at_strings(model: Any) -> None:
    # transformers reads this word to find out how a tokenizer joins its tokens.
    vocabulary = {"abcdef": 0, **{f"w{index:03}": index for index in range(1, 512)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="abcdef"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="abcdef", pad_token="abcdef")
    free = model.generate(IDS[:1], **GREEDY)
    wanted = int(free[0, 19])
    first = 16 + free[0, 16:].tolist().index(wanted)
    stop = tokenizer.convert_ids_to_tokens(wanted)
    stopped = model.generate(IDS[:1], stop_strings=[stop], tokenizer=tokenizer, **GREEDY)
    assert stopped.tolist() == free[:, : first + 1].tolist()


def quantises_its_cache(model: Any) -> None:
    asked = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    cache = model.generate(IDS, return_dict_in_generate=True, **asked, **GREEDY).past_key_values
    assert type(cache.layers[0]).__name__ == "Fp8QuantizedLayer"


def uses_a_static_cache(model: Any) -> None:
    model.generate(IDS, cache_implementation="static", **GREEDY)


def uses_a_paged_cache(model: Any) -> None:
    model.generate(IDS, cache_implementation="paged", **GREEDY)


def attends_in_another_way(model: Any) -> None:
    type(model)._from_config(copy.deepcopy(model.config), attn_implementation="eager")


def changes_its_attention(model: Any) -> None:
    model.set_attn_implementation("eager")


def quantises_its_weights(model: Any) -> None:
    config = copy.deepcopy(model.config)
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    type(model)(config)

"""What every registered model must do, whatever it remembers; a new method is tested as soon as it has a name."""

import functools
import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from newllm.evaluation.agreement import cached_equals_uncached
from newllm.evaluation.cache import measure
from newllm.evaluation.causality import certify
from newllm.models import configure, create, find, names
from newllm.models.language_model import LanguageModel
from newllm.models.position import ENCODINGS
from newllm.models.recurrent import RecurrentModel

# Every model that is built of the decoder's blocks is built of those of the other backbone too, but the presets, which
# are one model with another shape: `llama` and `mqa` stand for them.
PRESETS = ("llama", "narrow", "pythia", "unified")
ON_LLAMA = [f"{name}@llama" for name in names() if "backbone" in find(name).settings and name not in PRESETS]
EVERY_MODEL = [*names(), *ON_LLAMA]
RECURRENT = [name for name in EVERY_MODEL if find(name.partition("@")[0]).model_class.recurrence]


def encodings_of(name: str) -> list[str | None]:
    """Position encodings that a model accepts; None alone where it offers no choice."""
    accepted: list[str | None] = []
    for encoding in ENCODINGS:
        try:
            configure(name.partition("@")[0], "tiny", position=encoding)
        except ValueError:
            continue
        accepted.append(encoding)
    return accepted or [None]


EVERY_VARIANT = [
    *((name, encoding) for name in names() for encoding in encodings_of(name)),
    # The encodings do not know of blocks.
    *((name, encodings_of(name)[0]) for name in ON_LLAMA),
]


def build(name: str, size: str = "tiny", **overrides) -> LanguageModel:
    torch.manual_seed(0)
    name, _, backbone = name.partition("@")
    return create(name, size, **({"backbone": backbone} if backbone else {}), **overrides).eval()


@functools.cache
def shared(name: str) -> LanguageModel:
    """One model for the tests that change nothing in it."""
    return build(name)


def variant(name: str, encoding: str | None) -> LanguageModel:
    return build(name) if encoding is None else build(name, position=encoding)


def tokens(model: LanguageModel, rows: int = 2, length: int = 21, seed: int = 0) -> torch.Tensor:
    # Never the end-of-text id, which would end generation.
    return torch.randint(1, model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "encoding"), EVERY_VARIANT)
def test_it_is_causal(name, encoding):
    certificate = certify(variant(name, encoding))
    assert certificate.passed, certificate.failures()


@pytest.mark.parametrize(("name", "encoding"), EVERY_VARIANT)
def test_cached_equals_uncached(name, encoding):
    agreement = cached_equals_uncached(variant(name, encoding))
    assert agreement.max_error < 1e-9, agreement.errors
    assert {"crop", "crop, left padding", "beam reorder"} <= set(agreement.errors)


@pytest.mark.parametrize("name", [name for name in names() if len(encodings_of(name)) > 1])
def test_position_encodings_differ(name):
    ids = tokens(shared(name))
    with torch.no_grad():
        logits = [variant(name, encoding)(ids).logits for encoding in encodings_of(name)]
    for one, other in itertools.combinations(logits, 2):
        assert (one - other).abs().max() > 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", EVERY_MODEL)
def test_measured_bytes_are_those_of_the_formula(name, dtype):
    model = shared(name)
    for length in (1, 7, 8, 9, 40):
        report = measure(model, length, dtype)
        assert report.measured_bytes == report.formula_bytes == model.cached_values(length) * dtype.itemsize
    # Both lengths of the slope are whole chunks.
    assert report.bytes_per_token * 40 + report.state_bytes == report.measured_bytes


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_save_and_load(name, tmp_path):
    model = shared(name)
    model.save_pretrained(tmp_path)
    ids = tokens(model)
    for loader in (type(model), AutoModelForCausalLM):
        loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is type(model)
        assert not any(info.values()), info
        with torch.no_grad():
            assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)
    assert loaded.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {
        "_name_or_path": "",
        "architectures": [type(model).__name__],
        "dtype": loaded.config.to_dict()["dtype"],
    }


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_every_buffer_is_saved(name):
    # Buffers that are not come back from from_pretrained as garbage.
    model = shared(name)
    assert {buffer for buffer, _ in model.named_buffers()} <= set(model.state_dict())


@pytest.mark.parametrize(
    ("name", "frozen"), [*((name, False) for name in EVERY_MODEL), *((name, True) for name in RECURRENT)]
)
def test_gradients_reach_every_trainable_parameter_and_no_other(name, frozen):
    model = build(name).train()
    if frozen:
        assert isinstance(model, RecurrentModel)
        model.freeze_context_blocks()
        assert not any(parameter.requires_grad for parameter in model.context_blocks.parameters())
    ids = tokens(model, rows=3, length=40)
    model(ids, labels=ids).loss.backward()
    reached = {
        key for key, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert reached == {key for key, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_training_and_evaluation_loss_agree(name):
    model = build(name).double()
    ids = tokens(model)
    labels = ids.clone()
    labels[0, :5] = -100
    evaluated = model(ids, labels=labels)
    model.train()
    trained = model(ids, labels=labels)
    assert trained.logits is None
    torch.testing.assert_close(trained.loss, evaluated.loss)
    expected = torch.nn.functional.cross_entropy(evaluated.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(evaluated.loss, expected)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_padded_rows_train_like_rows_alone(name):
    """Padding that labels leave out changes neither loss nor gradient."""
    model = build(name).double().train()
    ids, padding = tokens(model, rows=1, length=20), tokens(model, rows=1, length=6, seed=1)
    # Nothing real stands before the first real token: it is no label in the padded row, as in the row alone.
    ignored = torch.full((1, 7), -100)
    padded = {
        "input_ids": torch.cat([padding, ids], dim=1),
        "attention_mask": (torch.arange(26) >= 6).long()[None],
        "labels": torch.cat([ignored, ids[:, 1:]], dim=1),
    }
    found = []
    for arguments in ({"input_ids": ids, "labels": ids}, padded):
        model.zero_grad()
        loss = model(**arguments).loss
        loss.backward()
        found.append([loss.detach(), *(value.grad for value in model.parameters() if value.grad is not None)])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_greedy_generation_takes_the_best_token_each_time(name):
    model = build(name).double()
    ids = tokens(model, length=5)
    generated = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    expected = ids
    with torch.no_grad():
        for _ in range(20):
            best = model(expected, use_cache=False).logits[:, -1].argmax(-1)
            expected = torch.cat([expected, best[:, None]], dim=1)
    assert torch.equal(generated, expected)


@pytest.mark.parametrize(
    "way", [{"num_beams": 3, "do_sample": False}, {"do_sample": True, "top_k": 0}, {"do_sample": True, "num_beams": 2}]
)
@pytest.mark.parametrize("name", EVERY_MODEL)
def test_generation_with_and_without_a_cache_is_the_same(name, way):
    model = build(name).double()
    ids = tokens(model, length=5)
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(1)
        texts.append(
            model.generate(ids, max_new_tokens=18, use_cache=use_cache, eos_token_id=None, pad_token_id=0, **way)
        )
    assert torch.equal(*texts)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_left_padded_prompts_generate_as_they_do_alone(name):
    model = build(name).double()
    long, short = tokens(model, rows=1, length=11), tokens(model, rows=1, length=4, seed=1)
    arguments = {"max_new_tokens": 15, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    batch = torch.cat([long, torch.nn.functional.pad(short, (7, 0))])
    mask = torch.ones_like(batch)
    mask[1, :7] = 0
    together = model.generate(batch, attention_mask=mask, **arguments)
    assert torch.equal(together[:1], model.generate(long, **arguments))
    assert torch.equal(together[1:, 7:], model.generate(short, **arguments))


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_an_empty_cache_of_the_caller_is_filled_in(name):
    model = shared(name)
    ids = tokens(model)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        for cache in (DynamicCache(), DynamicCache(config=model.config), model.new_cache()):
            first = model(ids[:, :9], past_key_values=cache).logits
            second = model(ids[:, 9:], past_key_values=cache).logits
            assert cache.get_seq_length() == 21
            torch.testing.assert_close(torch.cat([first, second], 1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_generation_that_takes_tokens_back_is_exact_or_refused(name):
    """Assisted generation crops the cache; a recurrent state cannot follow."""
    model = build(name).double()
    ids = tokens(model, rows=1, length=8)
    arguments = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    if model._is_stateful:
        with pytest.raises(ValueError, match="stateful"):
            model.generate(ids, assistant_model=build("pythia").double(), **arguments)
    else:
        assisted = model.generate(ids, assistant_model=build("pythia").double(), **arguments)
        assert torch.equal(assisted, model.generate(ids, **arguments))


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_a_state_refuses_to_be_cropped_and_a_recording_makes_it_exact(name):
    model = build(name)
    if not model._is_stateful:
        assert model(tokens(model), use_cache=True).past_key_values.is_croppable
        return
    cache = model(tokens(model), use_cache=True).past_key_values
    with pytest.raises(RuntimeError, match="activate_past_recording"):
        cache.crop(-3)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_only_the_last_logits_on_request(name):
    model = shared(name)
    ids = tokens(model)
    with torch.no_grad():
        full = model(ids).logits
        torch.testing.assert_close(model(ids, logits_to_keep=3).logits, full[:, -3:])
        torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([2, 5])).logits, full[:, [2, 5]])


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_it_builds_at_every_size_without_weights(name):
    with torch.device("meta"):
        for size in ("mini", "70m", "160m", "410m", "1b", "1.4b"):
            model = build(name, size)
            assert model.cached_values(128) > 0


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_a_recurrence_is_declared_by_the_class_and_leaves_no_trace_in_others(name):
    model = build(name)
    assert type(model).recurrence == (name in RECURRENT) == isinstance(model, RecurrentModel)
    for part in ("context_blocks", "embed_norm", "context_width", "normed_embeddings", "freeze_context_blocks"):
        assert hasattr(model, part) == (name in RECURRENT)
    if name not in RECURRENT:
        ids = tokens(model)
        with pytest.raises(TypeError, match="contexts"):
            model(ids, contexts=torch.zeros(2, 21, 8))


@pytest.mark.parametrize("name", RECURRENT)
def test_the_recurrences_keep_their_own_initialisation(name):
    model = build(name, "mini")
    assert isinstance(model, RecurrentModel)
    for block in model.context_blocks:
        weights = torch.cat([part.weight.flatten() for part in block.modules() if isinstance(part, torch.nn.Linear)])
        assert weights.std().item() == pytest.approx(0.1, rel=0.05)

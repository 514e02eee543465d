"""A GGUF file is the model that was written into it; what is damaged, or of another family, is refused."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from newllm.runs import gguf as reader
from newllm.runs.saved_model import LoadingError, load_trained_model

gguf = pytest.importorskip("gguf")
HEADS, GROUPS = 4, 2
# Their names in GGUF files, where heads of queries and keys hold the pairs that are rotated side by side.
PARTS = {
    "self_attn.q_proj": ("attn_q", HEADS),
    "self_attn.k_proj": ("attn_k", GROUPS),
    "self_attn.v_proj": ("attn_v", None),
    "self_attn.o_proj": ("attn_output", None),
    "mlp.gate_proj": ("ffn_gate", None),
    "mlp.up_proj": ("ffn_up", None),
    "mlp.down_proj": ("ffn_down", None),
    "input_layernorm": ("attn_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
}


def llama(vocabulary):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        tie_word_embeddings=True,
        initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    )
    return LlamaForCausalLM(config).eval()


def write(path, model, tokenizer, architecture="llama"):
    """Write a model and its tokenizer as llama.cpp's converter does."""
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_name("Smollm2 135M 8k")
    writer.add_unk_token_id(0)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(5000.0)
    writer.add_vocab_size(config.vocab_size)
    described = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(described["vocab"], key=described["vocab"].get))
    writer.add_token_types([gguf.TokenType.NORMAL] * len(described["vocab"]))
    writer.add_token_merges([" ".join(pair) for pair in described["merges"]])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id):
        add(tokenizer.eos_token_id)
    state = model.state_dict()
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for layer in range(config.num_hidden_layers):
        for ours, (theirs, heads) in PARTS.items():
            weight = state[f"model.layers.{layer}.{ours}.weight"]
            if heads is not None:
                weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def file(text_data, tmp_path, monkeypatch):
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "small.gguf"


def test_a_file_is_the_model_that_was_written_into_it(file, text_data, monkeypatch):
    model, tokenizer = llama(len(text_data.tokenizer)), text_data.tokenizer
    write(file, model, tokenizer)
    trained = load_trained_model(str(file))
    ids = torch.tensor([tokenizer.encode("The old teacher remembers 17 roads.")])
    assert trained.tokenizer.encode("The old teacher remembers 17 roads.") == ids[0].tolist()
    with torch.no_grad():
        assert torch.allclose(trained.model(ids).logits, model(ids).logits, atol=1e-4, rtol=0)
    assert trained.method == "llama" and trained.tokenizer.eos_token_id == tokenizer.eos_token_id
    # It is unpacked once, and again where what was unpacked is damaged.
    unpacked = reader.unpack_gguf(file)
    monkeypatch.setattr(reader, "_unpack", None)
    assert reader.unpack_gguf(file) == unpacked
    monkeypatch.undo()
    (unpacked / "model.safetensors").write_bytes(b"")
    assert (reader.unpack_gguf(file) / "model.safetensors").stat().st_size > 0


def test_what_cannot_be_read_is_refused_and_leaves_nothing(file, text_data, tmp_path, monkeypatch):
    model = llama(len(text_data.tokenizer))
    write(file, model, text_data.tokenizer)
    whole = file.read_bytes()
    other = tmp_path / "other.gguf"
    write(other, model, text_data.tokenizer, architecture="bloom")
    file.write_bytes(whole[: len(whole) // 2])
    for damaged in (file, other):
        with pytest.raises(LoadingError, match=r"is no GGUF file that can be read|holds a bloom"):
            load_trained_model(str(damaged))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LoadingError, match=r"pip install gguf"):
        load_trained_model(str(file))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))

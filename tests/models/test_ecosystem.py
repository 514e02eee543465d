"""Every call of the ecosystem on every model: it works as transformers defines it, or one sentence refuses it."""

import functools
import json
import re
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from newllm.models import create, names
from newllm.models.language_model import LanguageModel
from newllm.models.loader_file import LOADER
from newllm.runs.saving import save_trained_model
from tests.models.ecosystem import CALLS, PAGE, with_table
from tests.models.library_calls import IDS


def build(name: str) -> LanguageModel:
    torch.manual_seed(0)
    model = create(name, "tiny").double().eval()
    model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.try_out.__name__)
def test_it_works_or_is_refused_in_one_sentence(call, name):
    model = build(name)
    refusal = call.refusal(model)
    if refusal is None:
        call.try_out(model)
        return
    with pytest.raises((ValueError, TypeError), match=re.escape(refusal)) as refused:
        call.try_out(model)
    assert "\n" not in str(refused.value)


def test_the_page_shows_what_the_tests_expect():
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page, names()), "renew it: python -m tests.models.test_ecosystem"


@pytest.mark.parametrize("name", ["pythia", "mla"])
def test_gaps_in_positions_count_as_distance_with_and_without_a_cache(name):
    """A gap before the last tokens is felt by ALiBi's bias, in whichever call it comes."""
    torch.manual_seed(0)
    model = create(name, "tiny", position="alibi", initializer_range=0.5).double().eval()
    positions = torch.cat([torch.arange(9), torch.arange(30, 37)])[None]
    full = model(IDS, position_ids=positions).logits
    assert (full[:, :9] - model(IDS).logits[:, :9]).abs().max() < 1e-9
    assert (full[:, 9:] - model(IDS).logits[:, 9:]).abs().max() > 1e-3
    cache = model.new_cache()
    first = model(IDS[:, :9], past_key_values=cache).logits
    later = [
        model(IDS[:, 9:11], position_ids=positions[:, 9:11], past_key_values=cache).logits,
        model(IDS[:, 11:], past_key_values=cache).logits,
    ]
    assert (torch.cat([first, *later], 1) - full).abs().max() < 1e-9
    with pytest.raises(ValueError, match="another text needs a cache of its own"):
        model(IDS[:, :1], position_ids=torch.zeros(1, 1, dtype=torch.long), past_key_values=cache)
    with pytest.raises(ValueError, match="use_cache=False"):
        model(IDS, position_ids=torch.arange(16)[None] % 5, use_cache=True)


def test_labels_refuse_a_part_of_the_logits():
    with pytest.raises(ValueError, match="logits_to_keep"):
        build("pythia")(IDS, labels=IDS, logits_to_keep=1)


def test_a_trainer_knows_that_every_model_shifts_its_labels():
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert all(known[build(name).config.model_type] == type(build(name)).__name__ for name in names())


LOADING = """
import importlib.abc, json, sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "newllm":
            raise ModuleNotFoundError(f"No module named {name!r}")

folder, said = sys.argv[1], {}
try:
    AutoConfig.from_pretrained(folder)
except ValueError as error:
    said["not asked for"] = str(error)
assert "newllm" not in sys.modules
sys.meta_path.insert(0, Missing())
try:
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
except ImportError as error:
    said["missing"] = str(error)
sys.meta_path.pop(0)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
said["logits"] = model(torch.tensor([[5, 6, 7]])).logits[0, -1].tolist()
model.save_pretrained(folder + "/again")
open(sys.argv[2], "w").write(json.dumps(said))
"""


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<|endoftext|>": 2, "<|padding|>": 1, "a": 0}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="a")))
    made.add_special_tokens({"eos_token": "<|endoftext|>"})
    return made


def test_a_saved_model_loads_for_anybody(tmp_path):
    """In a Python that has not imported the library: refused, told what to install, or loaded, as it is asked for."""
    torch.manual_seed(0)
    model = create("mla", "tiny").eval()
    save_trained_model(tmp_path / "model", model, tokenizer())
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", f"{LOADER}.py"} <= files
    script = tmp_path / "loading.py"
    script.write_text(LOADING)
    arguments = [sys.executable, str(script), str(tmp_path / "model"), str(tmp_path / "said")]
    done = subprocess.run(arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "said").read_text())
    assert "trust_remote_code=True" in said["not asked for"]
    assert "pip install -e ." in said["missing"]
    expected = model(torch.tensor([[5, 6, 7]])).logits[0, -1]
    torch.testing.assert_close(torch.tensor(said["logits"]), expected)
    again = tmp_path / "model" / "again"
    assert {path.name for path in again.glob("*.py")} == {f"{LOADER}.py"}
    assert (again / "config.json").read_text() == (tmp_path / "model" / "config.json").read_text()


def test_special_tokens_and_left_padding_are_saved_with_a_model(tmp_path):
    model = create("pythia", "tiny")
    save_trained_model(tmp_path, model, tokenizer())
    assert tokenizer().padding_side == "right"
    loaded, read = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for settings in (loaded.config, loaded.generation_config):
        assert (settings.eos_token_id, settings.pad_token_id) == (2, 2)
    assert read.padding_side == "left"
    assert set(read("a")) == {"input_ids", "attention_mask"}
    assert not hasattr(loaded.config, "auto_map")


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), names()), encoding="utf-8")

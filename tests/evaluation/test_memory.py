"""Peak memory sees what a block allocates, even where it frees it again."""

import time

import torch

from newllm.evaluation.memory import peak_memory


def test_a_large_tensor_shows_although_it_is_gone():
    size = 200 * 2**20
    with peak_memory() as memory:
        block = torch.ones(size // 4)
        time.sleep(0.05)
        del block
    assert memory.added > 0.8 * size


def test_nothing_adds_little():
    with peak_memory("cpu") as memory:
        pass
    assert 0 <= memory.added < 50 * 2**20

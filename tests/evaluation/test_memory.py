"""Peak memory sees what a block allocates, even where it frees it again."""

import time

import torch
from hypothesis import given
from hypothesis import strategies as st

from newllm.evaluation.memory import TensorMemory, peak_memory


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


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6))
def test_tensors_are_counted_to_the_byte(sizes):
    with TensorMemory() as memory:
        kept = [torch.zeros(size) for size in sizes]
        assert len(kept) == len(sizes)
        del kept
        torch.zeros(1)
    assert memory.peak == 4 * sum(sizes)


def test_views_and_changes_in_place_are_no_new_memory():
    there = torch.zeros(1000)
    with TensorMemory() as memory:
        there.view(10, 100).T.add_(1)
        there[::2].mul_(2)
    assert memory.peak == 0


def test_what_is_freed_makes_room():
    kept = [torch.zeros(1000)]
    with TensorMemory() as memory:
        # The old tensor is gone before the second copy is made.
        kept[0] = kept[0] + 1
        kept[0] = kept[0] + 1
    assert memory.peak == 4000


def test_a_step_that_fails_ends_the_count():
    memory = TensorMemory()
    try:
        with memory:
            torch.zeros(10)
            raise RuntimeError
    except RuntimeError:
        torch.zeros(1000)
    assert memory.peak == 40

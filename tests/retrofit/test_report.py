"""Scores of the stages of a retrofit are kept by what decides them."""

from dataclasses import replace

import torch

from newllm.config.groups import EvaluationParameters
from newllm.data.sides import TextSides
from newllm.data.windows import TokenWindows
from newllm.models import create
from newllm.retrofit.report import Scores

EVALUATION = EvaluationParameters(repeat_distances=(4,), repeated_passages=2)


def in_windows_of(text: TextSides, seq_length: int) -> TextSides:
    """The same ids in windows of another length."""
    test = text.test
    cut = TokenWindows(test.token_ids, seq_length, test.bytes_per_token, test.groups)
    return replace(text, test=cut)


def test_windows_of_two_lengths_have_scores_of_their_own(text_data, tmp_path):
    torch.manual_seed(0)
    model = create("pythia", "tiny", vocab_size=320)
    shorter = in_windows_of(text_data, text_data.test.seq_length // 2)
    assert shorter.fingerprint == text_data.fingerprint, "the identity is of ids, not of how they are cut"
    kept = Scores()
    whole, cut = (kept.of(model, text, EVALUATION, tmp_path) for text in (text_data, shorter))
    assert len(cut.window_losses) == 2 * len(whole.window_losses)
    assert kept.of(model, text_data, EVALUATION) is whole
    again = Scores().of(model, shorter, EVALUATION, tmp_path)
    assert again.row == cut.row and (again.window_losses == cut.window_losses).all() and again.seconds == cut.seconds

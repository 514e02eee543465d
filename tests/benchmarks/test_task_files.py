"""Task files are read as data: templates see the document and nothing else, and whatever runs code is refused."""

import pickle
from pathlib import Path

import pytest

from newllm.benchmarks.task_files import TaskFileError, read_task_folder
from tests.benchmarks.task_folder import QUESTIONS, write_task


def refused(folder: Path, message: str) -> None:
    with pytest.raises(TaskFileError, match=message):
        task = read_task_folder(folder)["capitals"]
        for turned in task.settings.values():
            if callable(turned):
                turned(task.splits["test"][0])


def test_a_document_becomes_question_choices_and_answer(tmp_path: Path) -> None:
    (task,) = read_task_folder(write_task(tmp_path)).values()
    assert task.splits == {"test": QUESTIONS}
    first = QUESTIONS[0]
    assert task.settings["doc_to_text"](first) == "Question: which is the capital of France?\nAnswer:"
    assert task.settings["doc_to_choice"](first) == ["Rome", "Paris", "Oslo"]
    assert task.settings["doc_to_target"](first) == 1
    assert not any(isinstance(value, str) and "{" in value for value in task.settings.values())


@pytest.mark.parametrize(
    ("target", "given"),
    [
        ("{{cities.index('Paris')}}", 1),
        ("{{ ' ' + country }}", " France"),
        ("{{[country, 'x']}}", ["France", "x"]),
        ("country", "France"),
        ("{{answer}}", 1),
    ],
)
def test_targets_are_what_the_harness_makes_of_them(tmp_path: Path, target: str, given: object) -> None:
    (task,) = read_task_folder(write_task(tmp_path, doc_to_target=target)).values()
    assert task.settings["doc_to_target"](QUESTIONS[0]) == given


def test_the_digest_follows_what_is_said(tmp_path: Path) -> None:
    digests = [
        read_task_folder(write_task(tmp_path, **changes))["capitals"].digest
        for changes in ({}, {"doc_to_text": "{{country}}:"}, {"rows": QUESTIONS[:2]}, {})
    ]
    assert digests[0] == digests[-1]
    assert len(set(digests)) == 3


def test_what_is_included_is_overruled(tmp_path: Path) -> None:
    folder = write_task(tmp_path)
    (folder / "other.yaml").write_text("include: capitals.yaml\ntask: other\ndoc_to_text: 'Capital of {{country}}:'\n")
    tasks = read_task_folder(folder)
    assert sorted(tasks) == ["capitals", "other"]
    assert tasks["other"].settings["doc_to_text"](QUESTIONS[0]) == "Capital of France:"
    assert tasks["other"].settings["doc_to_choice"](QUESTIONS[0]) == ["Rome", "Paris", "Oslo"]


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch ' ~ country) }}",
    "{{ lipsum.__globals__['os'].getcwd() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ ('%s' | format).__class__ }}",
    "{{ country | attr('__class__') }}",
    "{{ '{0.__class__}'.format(country) }}",
    "{% for x in [].__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
]


@pytest.mark.parametrize("template", ESCAPES)
@pytest.mark.parametrize("setting", ["doc_to_text", "doc_to_target", "doc_to_choice"])
def test_templates_reach_nothing_but_the_document(tmp_path: Path, template: str, setting: str) -> None:
    refused(write_task(tmp_path, **{setting: template}), f"{setting} (cannot be rendered|must give)")


@pytest.mark.parametrize("setting", ["description", "target_delimiter", "fewshot_delimiter"])
def test_what_the_harness_would_render_itself_is_no_template(tmp_path: Path, setting: str) -> None:
    for template in ("{{ 1 }}", "{% if 1 %}x{% endif %}", "{# x #}"):
        refused(write_task(tmp_path, **{setting: template}), f"{setting} must be plain text")


@pytest.mark.parametrize("tag", ["!function utils.process", "!!python/object/apply:os.getcwd []", "!x y"])
def test_tags_that_run_code_are_refused(tmp_path: Path, tag: str) -> None:
    folder = write_task(tmp_path)
    (folder / "utils.py").write_text("raise SystemExit('it was run')")
    path = folder / "capitals.yaml"
    path.write_text(path.read_text() + f"process_docs: {tag}\n")
    refused(folder, r"capitals\.yaml is not plain YAML: the tag .* is not read \(in line \d+\)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process_docs": "os.system"}, "process_docs is not a setting"),
        ({"process_results": "x"}, "process_results is not a setting"),
        ({"custom_dataset": "x"}, "custom_dataset is not a setting"),
        ({"class": "x"}, "class is not a setting"),
        ({"unsafe_code": True}, "unsafe_code is not a setting"),
        ({"use_prompt": "a.yaml:b"}, "use_prompt is not a setting"),
        ({"fewshot_config": {}}, "fewshot_config is not a setting"),
        ({"dataset_path": "pandas"}, "dataset_path is 'pandas'"),
        ({"dataset_path": "someone/code"}, "dataset_path is 'someone/code'"),
        ({"dataset_kwargs": {"data_files": {}, "trust_remote_code": True}}, r"dataset_kwargs\.trust_remote_code"),
        ({"dataset_kwargs": {"data_files": {"test": "capitals.pkl"}}}, "must be a .jsonl file"),
        ({"dataset_kwargs": {"data_files": {"test": "../outside.jsonl"}}}, "no such file"),
        ({"dataset_kwargs": {"data_files": {"test": "link.jsonl"}}}, "no such file"),
        ({"dataset_kwargs": {"data_files": {"test": "hf://x/y.jsonl"}}}, "no such file"),
        ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "hf_evaluate is True"),
        ({"test_split": "train"}, "test_split is 'train', but data_files has test"),
        ({"test_split": None}, "test_split is missing"),
        ({"doc_to_text": None}, "doc_to_text is missing"),
        ({"doc_to_text": "{{country"}, "no Jinja template"),
        ({"doc_to_text": "{{population}}"}, "'population' is undefined"),
        ({"doc_to_choice": "{{country}}"}, "must give a list of texts"),
        ({"dataset_kwargs": {"data_files": 3}}, "data_files"),
        ({"num_fewshot": "two"}, "num_fewshot is 'two'"),
        ({"name": "../../elsewhere"}, "task is '../../elsewhere'"),
        ({"rows": []}, "holds no documents"),
        ({"rows": [1]}, "line 1: expected a JSON object"),
    ],
)
def test_other_task_files_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "outside.jsonl").write_text('{"country": "x"}\n')
    (folder / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    (folder / "capitals.pkl").write_bytes(pickle.dumps(QUESTIONS))
    name = changes.pop("name", None)
    write_task(folder, **changes)
    if name:
        path = folder / "capitals.yaml"
        path.write_text(path.read_text().replace("task: capitals", f"task: {name}"))
    refused(folder, message)


@pytest.mark.parametrize("files", ["capitals.jsonl", ["capitals.jsonl", "capitals.jsonl"]])
def test_files_without_a_split_are_the_split_train(tmp_path: Path, files: str | list[str]) -> None:
    """As `datasets` has it, and the harness' own guide."""
    folder = write_task(tmp_path, dataset_kwargs={"data_files": files}, test_split="train")
    count = 1 if isinstance(files, str) else len(files)
    assert read_task_folder(folder)["capitals"].splits == {"train": QUESTIONS * count}
    refused(
        write_task(tmp_path, dataset_kwargs={"data_files": files}), "test_split is 'test', but data_files has train"
    )


@pytest.mark.parametrize("content", ["a: " + "[" * 600, "task: \x00", 'a: !!float "-"', "\udcff"])
def test_what_is_no_yaml_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content, errors="surrogateescape")
    refused(tmp_path, r"a\.yaml is not (plain YAML|UTF-8 text)")


def test_data_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    folder = write_task(tmp_path)
    (folder / "capitals.jsonl").write_bytes(b'{"country": "\xff"}\n')
    refused(folder, r"capitals\.jsonl is not UTF-8")


def test_folders_without_a_task_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no folder")
    refused(tmp_path, "no .yaml file with a task")
    (tmp_path / "a.yaml").write_text("[1, 2]")
    refused(tmp_path, "must be a list of `key: value` lines")
    (tmp_path / "a.yaml").write_text("include: b.yaml")
    (tmp_path / "b.yaml").write_text("include: a.yaml")
    refused(tmp_path, "includes itself")
    (tmp_path / "a.yaml").write_text("include: /etc/passwd")
    refused(tmp_path, "no such file")
    (tmp_path / "a.yaml").write_text("task: [")
    refused(tmp_path, "not plain YAML")


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    write_task(tmp_path)
    write_task(tmp_path / "below")
    refused(tmp_path, "another task capitals")

"""A folder with a multiple-choice task of the user's own, from real sentences."""

import json
from pathlib import Path
from typing import Any

import yaml

QUESTIONS: list[dict[str, Any]] = [
    {"country": "France", "cities": ["Rome", "Paris", "Oslo"], "answer": 1},
    {"country": "Japan", "cities": ["Tokyo", "New York City", "Cairo"], "answer": 0},
    {"country": "Norway", "cities": ["Lima", "Rome, of old", "Oslo"], "answer": 2},
    {"country": "Kenya", "cities": ["Nairobi", "Madrid"], "answer": 0},
]
CAPITALS = {
    "task": "capitals",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "capitals.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "Question: which is the capital of {{country}}?\nAnswer:",
    "doc_to_choice": "{{cities}}",
    "doc_to_target": "answer",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
    "metadata": {"version": 1.0},
}


def write_task(folder: Path, name: str = "capitals", rows: Any = None, **changes: Any) -> Path:
    """Write a task and its data; a change to None takes the setting out."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**CAPITALS, "task": name, "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}, **changes}
    settings = {key: value for key, value in settings.items() if value is not None}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    lines = [json.dumps(row) for row in (QUESTIONS if rows is None else rows)]
    (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder

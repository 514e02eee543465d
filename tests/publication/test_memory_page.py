"""The page "What does it remember?": what stands on it is what the published trials say."""

import re
from pathlib import Path

import pytest

from newllm import models
from newllm.files import read_json, write_json
from newllm.publication import memory_page
from newllm.publication.memory_page import NoPassageError, Passage, make_passage, render
from newllm.runs.record import read_record
from tests.comparison_setup import settings
from tests.publication.board_records import write_record

LENGTH = 12
CHUNKS = "context-kv-oacd@chunk_size=4"
LOSSES = {
    "pythia": [2.0] * LENGTH,
    "mla": [2.0] * 6 + [2.6] * 5 + [9.0],
    "context-kv-oacd@chunk_size=4": [1.4] * LENGTH,
}
TOKENS = ["first", *(f" w{place}" for place in range(LENGTH - 1)), "<script>"]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    for arm, losses in LOSSES.items():
        folder = write_record(tmp_path / arm.partition("@")[0], arm, seq_length=LENGTH).parent
        write_json(folder / "evaluation.json", {"first_windows": [losses]})
    for name, length, data in (("other-data", LENGTH, "b2"), ("longer-windows", 2 * LENGTH, "a1")):
        other = write_record(tmp_path / name, "mqa", data=data, seq_length=length).parent
        write_json(other / "evaluation.json", {"first_windows": [[1.0] * length]})
    hits = [place == 5 for place in range(LENGTH)]
    write_json(tmp_path / "passage.json", {"data": "a1", "source": "sotu", "tokens": TOKENS, "hits": hits})
    return tmp_path


def texts(page: str) -> dict[str, list[tuple[str, str]]]:
    """Return the class and the text of each predicted token, by the name of the arm."""
    articles = page.split("<article>")[1:]
    spans = re.compile(r'<span class="([^"]*)" title="[^"]*">([^<]*)</span>')
    names = [re.findall(r"<h2>(.*?)</h2>", article)[0] for article in articles]
    return {name: spans.findall(article) for name, article in zip(names, articles, strict=True)}


def test_tokens_are_coloured_by_their_loss_beyond_the_baselines(published):
    shown = texts(render(published))
    assert next(iter(shown)) == "pythia"
    assert set(shown) == set(LOSSES), "what was scored on other text, or in other windows, is not shown"
    assert [kind for kind, _ in shown["mla"]] == ["", "", "", "", "", "hit", *["worse1"] * 5, "worse4"]
    assert all(kind.startswith("better1") for kind, _ in shown[CHUNKS])
    assert {kind for kind, _ in shown["pythia"]} == {"", "hit"}


def test_chunks_end_where_the_model_keeps_something(published):
    kinds = [kind.split() for kind, _ in texts(render(published))[CHUNKS]]
    # The token at position p is the (p)-th predicted one; positions 3, 7 and 11 end chunks of four.
    assert [place for place, kind in enumerate(kinds, start=1) if "end" in kind] == [3, 7, 11]


def test_the_cache_grows_as_the_model_says(published):
    page = render(published)
    sizes = dict(zip(texts(page), sizes_of(page), strict=True))
    assert sizes["mla"] == [4 * models.create("mla", "mini").cached_values(count) for count in range(1, LENGTH + 1)]
    assert sizes["pythia"][-1] == max(values[-1] for values in sizes.values())


def sizes_of(page: str) -> list[list[int]]:
    """Read the sizes that the page's script holds."""
    inside = re.findall(r"const sizes = \[(.*?)\], most", page, re.DOTALL)[0]
    return [[int(number) for number in row.split(",")] for row in re.findall(r"\[([^\]]*)\]", inside)]


def test_text_is_escaped_and_nothing_is_fetched(published):
    page = render(published)
    assert "&lt;script&gt;" in page
    assert page.count("<script>") == 1
    assert not re.search(r"(src|href)=|https?://", page)


def test_without_the_baseline_there_is_no_page(published):
    (published / "pythia" / "record.json").unlink()
    (published / "pythia" / "evaluation.json").unlink()
    with pytest.raises(NoPassageError, match="no pythia that has read the passage"):
        render(published)
    with pytest.raises(NoPassageError, match="newllm publish"):
        render(published / "mla")


def test_the_passage_is_the_first_test_window_of_the_data(finished_comparison, text_folder, text_data, monkeypatch):
    record = read_record(finished_comparison[1] / "pythia-seed1")
    monkeypatch.setattr(memory_page, "prepare_data", lambda parameters: text_data)
    passage = make_passage(record)
    window = text_data.test[0]["input_ids"]
    assert len(passage.tokens) == len(window) == len(passage.hits) + 1 == settings(text_folder).seq_length + 1
    assert "".join(passage.tokens) == text_data.tokenizer.decode(window)
    other = record.model_copy(update={"parameters": record.parameters | {"data": "0" * 32}})
    with pytest.raises(NoPassageError, match="is not the text that text gives here"):
        make_passage(other)


def test_what_is_stored_is_the_passage(published):
    assert Passage(**read_json(published / "passage.json")).tokens == TOKENS

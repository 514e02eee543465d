"""Real text and a hub that can be silent, as the tests of evaluation have them."""

from tests.evaluation.conftest import fake_hub, raw_wikitext, tokenizer

__all__ = ["fake_hub", "raw_wikitext", "tokenizer"]

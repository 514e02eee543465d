"""Long texts in pieces: cut where no token reaches across, so that memory and time grow with the piece alone."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from tokenizers import Tokenizer

# What is encoded at once. A tokenizer takes 190 bytes of memory a byte, and a time that grows with the square of a
# word's length.
LONGEST_PIECE = 8_000

# Before a space that follows no white space, and between a letter and a mark or white space: the usual patterns of
# byte-level tokenizers all begin a word there, and composition (NFC) reaches across neither.
_PLACE = re.compile(r"(?<=\S)(?= )|(?<=[^\W\d_])(?=[\s!-/:-@\[-^`{-~\u3000-\u303f\uff01-\uff0f])")

# Characters on either side of a place that are encoded with and without a cut.
_NEIGHBOURHOOD = 64

# Places that are tried for a cut, the last one first.
_TRIES = 32

EncodeAll = Callable[[Sequence[str]], list[list[int]]]


def cut_into_pieces(text: str, backend: Tokenizer, encode_all: EncodeAll) -> Iterator[str]:
    """Cut a long text so that the ids of the pieces, one after the other, are those of the whole text.

    A cut is made where the tokenizer's own pre-tokenizer begins a word, and where the ids of what stands around it stay
    the same. Where there is no such place in a piece (a word of thousands of letters, a tokenizer that merges across
    white space), the cut is made at its end all the same: nothing is lost, but two tokens may stand for one.

    Parameters
    ----------
    text
        Any text.
    backend
        The tokenizer.
    encode_all
        Gives the ids of texts, without any token that is not theirs.

    Yields
    ------
    str
        A piece of at most `LONGEST_PIECE` characters.
    """
    start = 0
    while len(text) - start > LONGEST_PIECE:
        end = _place_to_cut(text, start, backend, encode_all)
        yield text[start:end]
        start = end
    yield text[start:]


def _place_to_cut(text: str, start: int, backend: Tokenizer, encode_all: EncodeAll) -> int:
    limit = start + LONGEST_PIECE
    places = [found.start() for found in _PLACE.finditer(text, start + 1, limit)]
    for place in places[: -_TRIES - 1 : -1]:
        before, after = text[max(start, place - _NEIGHBOURHOOD) : place], text[place : place + _NEIGHBOURHOOD]
        if _begins_a_word(before, after, backend):
            whole, left, right = encode_all([before + after, before, after])
            if whole == left + right:
                return place
    # No text begins with a mark that belongs to the letter before it.
    return next((end for end in range(limit, limit - 32, -1) if not unicodedata.combining(text[end])), limit)


def _begins_a_word(before: str, after: str, backend: Tokenizer) -> bool:
    """Tell whether the pre-tokenizer lets no word reach from one text into the other."""
    if backend.pre_tokenizer is None:
        return False
    if backend.normalizer is not None:
        before, after = (backend.normalizer.normalize_str(part) for part in (before, after))
    words = backend.pre_tokenizer.pre_tokenize_str(before + after)
    return any(beginning == len(before) for _, (beginning, _) in words)

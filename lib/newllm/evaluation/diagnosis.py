"""What a perplexity says about the training that led to it."""

import math
from dataclasses import dataclass
from enum import StrEnum

# Bytes of English that one token of a 50 k vocabulary stands for; the bands below were drawn for such tokens.
REFERENCE_BYTES_PER_TOKEN = 4.4
REFERENCE_VOCABULARY = 30_000
# No published model compresses English text further than about 0.5 bits per byte; pythia-70m needs about 1.1.
PRETRAINED_ABNORMAL = 0.4
PRETRAINED_POOR = 1.5


class Verdict(StrEnum):
    """The bands of a perplexity."""

    ABNORMAL = "abnormal"
    SUSPICIOUS = "suspicious"
    NORMAL_SMALL_DATA = "normal for small data"
    NORMAL_FROM_SCRATCH = "normal from scratch"
    SLOW = "slow"
    UNDER_TRAINED = "under-trained"
    NORMAL_PRETRAINED = "normal for a pretrained model"
    POOR_PRETRAINED = "poor for a pretrained model"


BANDS = (
    (5, Verdict.ABNORMAL, "a leak or a mask bug: inspect the code before anything else"),
    (30, Verdict.SUSPICIOUS, "the training text was memorised, or the split shares text"),
    (100, Verdict.NORMAL_SMALL_DATA, "what a model that fits a small text well reaches"),
    (500, Verdict.NORMAL_FROM_SCRATCH, "what a small model reaches from random weights"),
    (1000, Verdict.SLOW, "learning goes slowly: more passes, more data, or another learning rate"),
    (math.inf, Verdict.UNDER_TRAINED, "little was learned: check learning rate, data and length of training"),
)


@dataclass(frozen=True)
class Diagnosis:
    """A verdict on a perplexity.

    Attributes
    ----------
    verdict
        The band.
    judged
        Perplexity at 4.4 bytes per token that the bands were applied to; the perplexity itself where the vocabulary is
        large.
    message
        The verdict in one sentence.
    """

    verdict: Verdict
    judged: float
    message: str

    @property
    def alarming(self) -> bool:
        """Whether the number should not be believed before somebody has looked."""
        return self.verdict in (Verdict.ABNORMAL, Verdict.SUSPICIOUS)


def diagnose(perplexity: float, bits_per_byte: float, vocab_size: int, pretrained: bool = False) -> Diagnosis:
    """Judge a held-out perplexity.

    The bands hold for English in tokens of a 50 k vocabulary. Tokens of a small vocabulary are shorter and easier to
    guess, so there the bits per byte are turned into the perplexity that a large vocabulary would have. A pretrained
    model is judged by its bits per byte, against what pretrained models reach.

    Parameters
    ----------
    perplexity
        Perplexity per token.
    bits_per_byte
        Bits per byte of the same text.
    vocab_size
        Tokens in the vocabulary.
    pretrained
        Whether the weights come from a large pretraining.

    Raises
    ------
    ValueError
        Where a number cannot be a perplexity or bits per byte.
    """
    if not perplexity >= 1 or not bits_per_byte >= 0:
        raise ValueError(f"perplexity {perplexity} must be 1 or more, and bits per byte {bits_per_byte} 0 or more")
    if pretrained:
        return _diagnose_pretrained(perplexity, bits_per_byte)
    small = vocab_size < REFERENCE_VOCABULARY
    judged = 2 ** min(bits_per_byte * REFERENCE_BYTES_PER_TOKEN, 1000.0) if small else perplexity
    _, verdict, meaning = next(band for band in BANDS if judged < band[0] or math.isinf(band[0]))
    reason = f" (as {judged:.4g} with a vocabulary of 50,000)" if small else ""
    return Diagnosis(verdict, judged, f"Perplexity {perplexity:.4g}{reason} is {verdict}: {meaning}.")


def _diagnose_pretrained(perplexity: float, bits_per_byte: float) -> Diagnosis:
    if bits_per_byte < PRETRAINED_ABNORMAL:
        verdict, meaning = Verdict.ABNORMAL, "a leak or a mask bug, or the text was in the pretraining"
    elif bits_per_byte < PRETRAINED_POOR:
        verdict, meaning = Verdict.NORMAL_PRETRAINED, "what pretrained models reach"
    else:
        verdict, meaning = (
            Verdict.POOR_PRETRAINED,
            "another tokenizer, another kind of text, or weights that were not loaded",
        )
    message = f"Perplexity {perplexity:.4g} at {bits_per_byte:.3g} bits per byte is {verdict}: {meaning}."
    return Diagnosis(verdict, perplexity, message)

"""Names of arms as pictures write them: settings in words, which take a line where ``name=value`` takes four."""

import re

LONGEST_LINE = 24  # characters

# How a model knows the order of its tokens, in the order in which pictures and tables show it.
ROTARY, ONE_SLOPE, SLOPES = "RoPE", "ALiBi, one slope", "ALiBi, a slope for each head"
NO_ENCODING, RECURRENCE = "no encoding", "recurrence"
ENCODINGS = (ROTARY, ONE_SLOPE, SLOPES, NO_ENCODING, RECURRENCE)

# In the order in which they are said.
WORDS = {
    "num_attention_heads": "{} heads",
    "alibi_slopes_by_head=true": "ALiBi slopes by head",
    "position=alibi": "ALiBi",
    "position=rope": "RoPE",
    "position=none": "no encoding",
    "hidden_size": "width {}",
    "intermediate_size": "MLP of {}",
    "chunk_size": "chunks of {}",
    "num_blocks=1": "1 block",
    "num_blocks": "{} blocks",
    "context_dim": "contexts of {}",
    "context_dims": "contexts of {}",
    "data_split=full": "full data",
    "freeze_embedding=false": "embedding trained",
    "tie_word_embeddings=false": "a head of its own",
    "layers_sharing": "{} layers share",
    "num_key_value_heads": "{} key-value heads",
}
# Not said where a setting is said that only it can have.
IMPLIED = {"alibi_slopes_by_head=true": "position=alibi"}


def arm_in_words(arm: str) -> str:
    """Write ``mqa@alibi_slopes_by_head=true,num_attention_heads=8`` as ``mqa: 8 heads, ALiBi slopes by head``.

    Parameters
    ----------
    arm
        The name of an arm, with or without something behind a blank; a setting without words stays as it is.
    """
    name, blank, behind = arm.partition(" ")
    method, at, written = name.partition("@")
    settings = re.split(r",(?![^\[{]*[\]}])", written) if at else []
    implied = {IMPLIED[setting] for setting in settings if setting in IMPLIED}
    kept = sorted((setting for setting in settings if setting not in implied), key=_order)
    said = f"{method}: {', '.join(map(_said, kept))}" if kept else method
    return f"{said}{blank}{behind}"


def name_lines(arm: str) -> tuple[str, ...]:
    """Break an arm in words into lines of `LONGEST_LINE` characters where it can be: behind colons and commas."""
    lines: list[str] = []
    for piece in re.split(r"(?<=[:,]) ", arm_in_words(arm)):
        if lines and len(lines[-1]) + 1 + len(piece) <= LONGEST_LINE:
            lines[-1] += f" {piece}"
        else:
            lines.append(piece)
    return tuple(lines)


def _order(setting: str) -> int:
    key = setting if setting in WORDS else setting.partition("=")[0]
    return list(WORDS).index(key) if key in WORDS else len(WORDS)


def _said(setting: str) -> str:
    name, _, value = setting.partition("=")
    if setting in WORDS:
        return WORDS[setting]
    return WORDS[name].format(value.strip("[]").replace(",", " and ")) if name in WORDS else setting

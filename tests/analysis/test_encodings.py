import pandas as pd
import pytest

from newllm.analysis.encodings import encoding_of, full_attention_of, memory_by_encoding, with_encodings
from newllm.experiments.arms import Arm
from newllm.figures.arm_words import ENCODINGS


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("pythia", "RoPE"),
        ("mla", "ALiBi, one slope"),
        ("mla@position=rope", "RoPE"),
        ("mqa@position=alibi,alibi_slopes_by_head=true", "ALiBi, a slope for each head"),
        ("unified@position=none", "no encoding"),
        ("cascade", "recurrence"),
    ],
)
def test_the_encoding_is_that_of_the_model_that_is_built(arm, words):
    assert encoding_of(Arm.parse(arm)) == words
    assert words in ENCODINGS


def test_what_was_trained_with_one_encoding_alone_is_left_out():
    summary = pd.DataFrame(
        {
            "arm": ["unified@position=none", "mla", "pythia", "mla@position=rope", "narrow", "4-gram"],
            "perplexity": [75.6, 54.7, 48.6, 50.7, 54.6, 53.3],
            "kv_bytes_per_token": [8192.0, 1024.0, 8192.0, 1280.0, 5120.0, None],
        }
    )
    table = memory_by_encoding(summary)
    assert list(table) == ["full attention", "mla"]
    assert table.to_dict("index") == {
        "RoPE, 4 heads": {"full attention": "48.6 (8,192)", "mla": "50.7 (1,280)"},
        "ALiBi, one slope, 4 heads": {"full attention": "", "mla": "54.7 (1,024)"},
        "no encoding, 4 heads": {"full attention": "75.6 (8,192)", "mla": ""},
    }


def test_full_attention_beside_an_arm_has_its_encoding_and_its_heads():
    eight = "num_attention_heads=8,position=alibi,alibi_slopes_by_head=true"
    arms = ["pythia", f"unified@{eight}", "mqa", f"mqa@{eight}", "mqa@num_attention_heads=8", "mla", "cascade"]
    assert full_attention_of(arms) == {"mqa": "pythia", f"mqa@{eight}": f"unified@{eight}"}


ROTATED = "mla@position=rope"


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("arms", "found"),
    [
        ([ROTATED, "pythia", "pythia@hidden_size=128"], {ROTATED: "pythia"}),
        ([ROTATED, "pythia@num_hidden_layers=2", "pythia@tie_word_embeddings=true"], {}),
        (
            [ROTATED, f"{ROTATED},tie_word_embeddings=true", "pythia", "pythia@tie_word_embeddings=true"],
            {ROTATED: "pythia", f"{ROTATED},tie_word_embeddings=true": "pythia@tie_word_embeddings=true"},
        ),
        (
            ["mla", "unified@position=alibi", "unified@alibi_slope=0.5,position=alibi"],
            {"mla": "unified@position=alibi"},
        ),
        (["dproj-oacd@num_hidden_layers=2", "pythia"], {}),
        (["mqa", "pythia", "unified"], {"mqa": "pythia"}),
        # What keeps less because it is narrower stands beside what is not, whatever its width.
        (
            ["narrow", "narrow@hidden_size=208,intermediate_size=832", "pythia", "pythia@hidden_size=208"],
            {"narrow": "pythia", "narrow@hidden_size=208,intermediate_size=832": "pythia"},
        ),
    ],
)
def test_full_attention_beside_an_arm_differs_in_what_is_kept_alone(arms, found, turned):
    assert full_attention_of(arms[::-1] if turned else arms) == found


def test_without_such_arms_there_is_no_row():
    summary = pd.DataFrame({"arm": ["pythia"], "perplexity": [48.6], "kv_bytes_per_token": [8192.0]})
    assert memory_by_encoding(summary).empty


def test_what_is_no_arm_has_no_encoding():
    summary = with_encodings(pd.DataFrame({"arm": ["mla", "4-gram", "pretrained:EleutherAI/pythia-70m"]}))
    assert list(summary["encoding"]) == ["ALiBi, one slope", "", ""]

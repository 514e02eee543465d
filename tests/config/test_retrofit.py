"""A retrofit as notebooks write it is read to the same parameters, or refused in one sentence before any work."""

import pytest

from newllm.config.profiles import load_parameters
from newllm.config.retrofit import RetrofitParameters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mla", {}),
        ("mla@keep=0.25,factorisation=plain", {"keep": 0.25, "factorisation": "plain"}),
        ("mqa@num_key_value_heads=2", {"method": "mqa", "num_key_value_heads": 2}),
    ],
)
def test_what_is_written_is_read(text, expected):
    assert RetrofitParameters.parse(text, healing_tokens=5) == RetrofitParameters(**expected, healing_tokens=5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mlb", "mlb"),
        ("mla@keeps=0.5", "keeps"),
        ("mla@keep=2", "keep"),
        ("mqa@keep=0.5", "keep does nothing for mqa"),
        ("mla@keep", "not of the form"),
    ],
)
def test_what_none_can_be_is_refused_by_the_notebook(text, said):
    with pytest.raises(ValueError, match=said) as refusal:
        load_parameters("12_retrofit", "smoke", {"retrofits": [text]})
    assert "\n" not in str(refusal.value).strip()


def test_what_is_said_of_healing_is_read_for_the_budgets_that_heal():
    healed = "mla@keep=0.5,healing_lr=0.001,batch_size=1"
    given = {"retrofits": [healed], "healing_tokens": [0, 64, 128], "calibration_windows": 3}
    parameters = load_parameters("12_retrofit", "smoke", given)
    conversion = {"keep": 0.5, "batch_size": 1, "calibration_windows": 3}
    for tokens, more in ((0, {}), (64, {"healing_lr": 0.001, "healing_tokens": 64})):
        assert parameters.read_retrofit(healed, tokens) == RetrofitParameters(**conversion, **more)
    with pytest.raises(ValueError, match="do nothing without healing_tokens"):
        load_parameters("12_retrofit", "smoke", given | {"healing_tokens": [0]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mla@keep=0.5,keep=0.25", "gives a setting twice: leave one out"),
        ("mqa@method=mla", "has its method before the @: leave method out"),
        ("mqa@ method = mqa", "has its method before the @"),
    ],
)
def test_a_retrofit_says_everything_once(text, said):
    with pytest.raises(ValueError, match=said):
        RetrofitParameters.parse(text)


@pytest.mark.parametrize("name", ["healing_tokens", "seq_length", "calibration_windows"])
def test_what_the_notebook_says_of_all_retrofits_is_not_said_of_one(name):
    with pytest.raises(ValueError, match=f"sets {name}, .* give the parameter {name} instead"):
        load_parameters("12_retrofit", "smoke", {"retrofits": ["mqa", f"mla@{name}=64"]})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"llama": "somewhere"}, "llama is given, but no Llama is converted"),
        ({"llama_windows": 8}, "llama_windows is given, but no Llama is converted"),
        ({"llama_passages": 8}, "say what it becomes with llama_retrofits, or leave llama_passages out"),
        (
            {"llama_retrofits": ["mla@seq_length=7"]},
            "sets seq_length, but a Llama is always calibrated on as much text",
        ),
        ({"llama_retrofits": ["mla@keep=0.5,healing_lr=0.1"]}, "sets healing_lr, but a Llama .* not healed"),
        ({"llama_retrofits": ["mlb"]}, "mlb"),
        ({"healing_tokens": [0], "healing_seeds": [0, 1, 2]}, "nothing is healed, so that only the first would be"),
        ({"retrofits": ["mla", "mqa", "mla@ranks=uniform"]}, "'mla' and 'mla@ranks=uniform' are the same"),
    ],
)
def test_what_changes_nothing_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        load_parameters("12_retrofit", "smoke", given)


def test_one_seed_of_the_random_control_can_be_chosen_where_nothing_is_healed():
    load_parameters("12_retrofit", "smoke", {"healing_tokens": [0], "healing_seeds": [5]})
    load_parameters("12_retrofit", "smoke", {"healing_tokens": [0, 512], "healing_seeds": [0, 1]})
    load_parameters("12_retrofit", "smoke", {"llama_windows": 16})

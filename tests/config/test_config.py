import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from newllm.config import profiles as profiles_module
from newllm.config.errors import ParameterError
from newllm.config.groups import ProjectionParameters
from newllm.config.notebooks import NOTEBOOKS, MainTraining, ProjectionTraining
from newllm.config.profiles import load_parameters, notebooks_of, profiles
from newllm.files import different_keys
from newllm.notebook import parameters
from newllm.notebook.parameters import from_notebook

EVERY_PROFILE = [(notebook, profile) for profile in profiles() for notebook in notebooks_of(profile)]


def main_training(**given):
    parameters = load_parameters("02_main_training", "cpu", given)
    assert isinstance(parameters, MainTraining)
    return parameters


@pytest.mark.parametrize(("notebook", "profile"), EVERY_PROFILE)
def test_every_profile_survives_yaml(notebook, profile):
    parameters = load_parameters(notebook, profile, {})
    assert parameters.profile == profile
    assert load_parameters(notebook, profile, yaml.safe_load(parameters.to_yaml())) == parameters


def test_profiles_hold_the_settings_of_the_specification():
    cpu = main_training()
    assert (cpu.size, cpu.source, cpu.tokenizer, cpu.seq_length) == ("mini", "sotu", "bpe:4096", 256)
    assert {cpu.samples, cpu.val_samples, cpu.test_samples} == {"all"}
    assert (cpu.epochs, cpu.schedule, cpu.warmup) == (1, "linear", 0.05)
    gpu, earlier = (load_parameters("02_main_training", profile, {}) for profile in ("gpu", "earlier"))
    assert isinstance(gpu, MainTraining)
    assert isinstance(earlier, MainTraining)
    for asked in (gpu, earlier):
        assert (asked.size, asked.source, asked.tokenizer) == ("70m", "pile", "EleutherAI/pythia-70m")
    assert (earlier.samples, earlier.seq_length, earlier.epochs, earlier.lr) == (10_000, 128, 30, 1e-4)
    assert earlier.matrix_lr == "adamw"
    assert earlier.schedule == "constant"


RECIPE = ("lr", "matrix_lr", "schedule", "warmup", "epochs", "stream_lr", "stream_projection_lr", "stream_proj_noise")


@pytest.mark.parametrize("notebook", ["02_main_training", "05_reversal_curse", "08_context_kv", "09_cascade"])
@pytest.mark.parametrize("profile", ["quick", "gpu"])
def test_profiles_use_the_recipe_that_was_found(notebook, profile):
    if notebook not in notebooks_of(profile):
        return
    found, used = (load_parameters(notebook, name, {}) for name in ("cpu", profile))
    assert {name: getattr(used, name) for name in RECIPE} == {name: getattr(found, name) for name in RECIPE}


def test_none_means_as_the_profile_says_and_a_value_replaces_it():
    assert main_training(samples=None, lr=None) == main_training()
    assert main_training(samples=1500).samples == 1500


@given(st.floats(min_value=1e-12, max_value=1, allow_nan=False))
def test_numbers_written_as_text_are_numbers(value):
    parameters = main_training(lr=f"{value:e}")
    assert isinstance(parameters.lr, float)
    assert parameters.lr == pytest.approx(value, rel=1e-6)


def test_text_from_the_command_line_becomes_what_it_spells():
    parameters = main_training(lr="1e-4", epochs="3", seeds="[0, 7]", arms="[pythia]")
    assert (parameters.lr, parameters.epochs, parameters.seeds, parameters.arms) == (1e-4, 3, (0, 7), ("pythia",))


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("proj_dim", 0, "greater than 0"),
        ("seq_length", 2049, "2048"),
        ("seq_length", 1, "2"),
        ("samples", 0, "greater than 0"),
        ("samples", 1.5, "integer"),
        ("samples", True, "number"),
        ("test_samples", "every", "or all"),
        ("lr", True, "number"),
        ("lr", "fast", "number"),
        ("lr", float("nan"), "finite"),
        ("lr", 0, "greater than 0"),
        ("lr", 1.5, "less than or equal to 1"),
        ("matrix_lr", 8, "less than or equal to 1"),
        ("epochs", -1, "greater than 0"),
        ("arms", [], "at least 1"),
        ("arms", "[pythia", "list such as [a, b]"),
        ("arms", ["pythia", "pythia"], "twice"),
        ("seeds", [], "at least 1"),
        ("seeds", [0, 0], "twice"),
        ("seeds", [-1], "0"),
        ("source", "wikipedia", "'wikitext'"),
        ("size", "70M", "'70m'"),
        ("tokenizer", "bpe:257", "over 257"),
        ("tokenizer", "bpe:many", "over 257"),
        ("tokenizer", "", "hub id"),
        ("precision", "fp16", "'bfloat16'"),
        ("device", "gpu", "cuda"),
        ("rerun", "maybe", "true or false"),
        ("convergence_target", 1.5, "1"),
        ("max_iterations", 1, "2"),
        ("text_files", ["*.txt"], "source=text"),
        ("timed_context", 10**12, "131072"),
        ("timed_tokens", 10**9, "2048"),
        ("continuation_tokens", 10**12, "2048"),
        ("batch_size", 10**12, "at most samples"),
        ("position_bands", [1000000], "within a window"),
        ("position_bands", [256], "below seq_length (256)"),
    ],
)
def test_an_impossible_value_is_one_sentence_with_key_value_and_what_is_allowed(key, value, allowed):
    with pytest.raises(ParameterError) as caught:
        main_training(**{"samples": 2000, key: value})
    message = str(caught.value)
    assert message.startswith(f"{key} is ")
    assert allowed in message
    assert message.endswith(".")
    assert "\n" not in message
    shown = value[0] if isinstance(value, list) and key == "seeds" and value == [-1] else value
    assert (repr(shown) in message) or (repr(tuple(value) if isinstance(value, list) else value) in message)


def test_the_default_of_the_bands_serves_windows_of_every_length():
    usual = MainTraining.model_fields["position_bands"].default
    assert load_parameters("02_main_training", "smoke", {"position_bands": list(usual)}).seq_length < max(usual)
    for beyond in ([90], [16, 32]):
        with pytest.raises(ParameterError, match="each must lie within a window"):
            load_parameters("02_main_training", "smoke", {"position_bands": beyond})


def test_a_step_has_no_more_windows_than_there_are_where_nothing_is_compared_either():
    with pytest.raises(ParameterError, match=r"^batch_size is 5000, but it must be at most samples \(64\)"):
        load_parameters("03_causal_masks", "smoke", {"batch_size": 5000})
    assert load_parameters("03_causal_masks", "smoke", {"samples": 3}).batch_size == 8


def test_all_windows_can_be_asked_for():
    every = main_training(samples="all", val_samples="all", test_samples="all", projection_samples="all", batch_size=99)
    assert (every.samples, every.val_samples, every.test_samples, every.projection_samples) == ("all",) * 4
    assert main_training(samples=7, projection_samples="all").projection_samples == 7
    assert main_training(samples="all", projection_samples=7).projection_samples == 7
    load_parameters("04_position_encodings", "cpu", {"test_samples": "all"})
    with pytest.raises(ParameterError, match="validation_percent is 60 and test_percent 40"):
        main_training(validation_percent=60, test_percent=40)


def test_a_prompt_is_not_empty():
    for prompts in (["Once", ""], "['']"):
        with pytest.raises(ParameterError, match=r"^prompts is '', but .* at least 1 character"):
            main_training(prompts=prompts)


def test_the_source_text_needs_files():
    with pytest.raises(ParameterError, match="source is text, which needs text_files"):
        main_training(source="text")
    assert main_training(source="text", text_files=["letters/*.txt"]).text_files == ("letters/*.txt",)


def test_extrapolation_needs_windows_of_every_length():
    load_parameters("04_position_encodings", "cpu", {"extrapolation_factors": [1, 8, 5], "test_samples": 40})
    with pytest.raises(
        ParameterError, match=r"extrapolation_factors is \[1, 8, 5\].*test_samples of 40 or more.*not 39"
    ):
        load_parameters("04_position_encodings", "cpu", {"extrapolation_factors": [1, 8, 5], "test_samples": 39})


def test_contexts_leave_room_for_the_steps_between_them():
    load_parameters("06_latent_attention", "cpu", {"decode_contexts": [40, 10], "decode_steps": 29})
    with pytest.raises(ParameterError, match=r"decode_contexts is \[40, 10\].*more than decode_steps \(30\) apart"):
        load_parameters("06_latent_attention", "cpu", {"decode_contexts": [40, 10], "decode_steps": 30})


def test_a_mistyped_name_is_told_its_neighbour():
    with pytest.raises(ParameterError, match=r"sampels is not a parameter of 02_main_training; did you mean samples\?"):
        main_training(sampels=3)


def test_a_parameter_of_another_notebook_is_unknown_here():
    with pytest.raises(ParameterError, match="epochs is not a parameter of 01_projection_training"):
        load_parameters("01_projection_training", "cpu", {"epochs": 3})


def test_every_problem_is_reported_at_once():
    with pytest.raises(ParameterError) as caught:
        main_training(proj_dim=0, lr=-1)
    assert len(str(caught.value).splitlines()) == 2


def test_unknown_notebook_and_profile_are_refused():
    with pytest.raises(ParameterError, match=r"did you mean 02_main_training\?"):
        load_parameters("02_main_trainin", "cpu", {})
    with pytest.raises(ParameterError, match="profile is 'tpu', but it must be one of cpu, earlier, gpu, quick, smoke"):
        load_parameters("02_main_training", "tpu", {})


@pytest.fixture
def own_profile(tmp_path, monkeypatch):
    """Write a profile of one's own: `own_profile(text)` makes it the only one."""
    monkeypatch.setattr(profiles_module, "project_root", lambda: tmp_path)
    folder = tmp_path / "params" / "own"
    folder.mkdir(parents=True)
    return (folder / "02_main_training.yaml").write_text


@pytest.mark.parametrize("key", ["samples", "seq_length", "epochs", "arms", "seeds"])
def test_what_has_no_default_must_be_given(key, own_profile):
    complete = {"samples": 10, "seq_length": 8, "epochs": 1, "arms": ["pythia"], "seeds": [0], "projection_samples": 10}
    own_profile(yaml.safe_dump({"profile": "own", **complete}))
    assert load_parameters("02_main_training", "own", {})
    own_profile(yaml.safe_dump({"profile": "own", **{name: complete[name] for name in complete if name != key}}))
    with pytest.raises(
        ParameterError, match=rf"^{key} .*has no default; .*params/own/02_main_training.yaml.*-p {key}="
    ):
        load_parameters("02_main_training", "own", {})


def test_a_mistake_in_a_profile_names_the_file(own_profile):
    own_profile("profile: own\nsampels: 3\nlr: -1\n")
    with pytest.raises(ParameterError) as caught:
        load_parameters("02_main_training", "own", {"samples": 10, "seq_length": 8, "epochs": 1, "arms": ["a"]})
    mistakes = [line for line in str(caught.value).splitlines() if "in params/own/02_main_training.yaml" in line]
    assert {line.split()[0] for line in mistakes} == {"sampels", "lr", "seeds"}


def test_a_profile_says_its_own_name(own_profile):
    own_profile("profile: another\n")
    with pytest.raises(ParameterError, match="must start with `profile: own`"):
        load_parameters("02_main_training", "own", {})


def test_parameters_never_change():
    with pytest.raises(ValueError, match="frozen"):
        main_training().lr = 1.0


def test_the_fingerprint_follows_what_decides_the_result():
    base = main_training()
    assert base.fingerprint() == main_training(output_folder="elsewhere", rerun=True).fingerprint()
    assert base.fingerprint() != main_training(lr=2e-4).fingerprint()


def test_groups_are_parameters_of_their_own():
    parameters = ProjectionParameters(projection_samples=8)
    assert parameters.projection_lr == 0.003
    with pytest.raises(ValueError, match="extra"):
        ProjectionParameters.model_validate({"epochs": 3})


class TestFromNotebook:
    """A notebook is the cells that were executed and the names they left."""

    @pytest.fixture
    def read(self, monkeypatch):
        def read(*cells):
            namespace: dict = {}
            monkeypatch.setattr(parameters, "executed_cells", ["from pathlib import Path", *cells])
            for cell in cells:
                exec(cell, namespace)
            return from_notebook("01_projection_training", namespace)

        return read

    def test_none_leaves_the_profile(self, read):
        parameters = read("profile = 'smoke'\nsamples = None")
        assert parameters == load_parameters("01_projection_training", "smoke", {})

    def test_papermill_replaces_a_parameter(self, read):
        parameters = read("profile = 'smoke'\nsamples = None", "# Parameters\nprofile = 'cpu'\nsamples = '3000'\n")
        assert isinstance(parameters, ProjectionTraining)
        assert (parameters.profile, parameters.samples) == ("cpu", 3000)

    def test_papermill_cannot_pass_a_mistyped_name(self, read):
        with pytest.raises(ParameterError, match=r"sampels.*did you mean samples\?"):
            read("profile = 'smoke'\nsamples = None", "# Parameters\nsampels = 3000\n")

    def test_a_mistyped_name_in_the_parameters_cell_is_refused_even_as_none(self, read):
        with pytest.raises(ParameterError, match="sampels"):
            read("profile = 'smoke'\nsampels = None")

    def test_a_corrected_cell_forgets_the_mistake(self, read):
        parameters = read("profile = 'smoke'\nsampels = 3", "profile = 'smoke'\nsamples = 70")
        assert parameters == load_parameters("01_projection_training", "smoke", {"samples": 70})

    def test_names_of_other_cells_are_no_parameters(self, read):
        parameters = read("profile = 'smoke'", "widths = [1, 2]", "samples = 9999\nprint(samples)")
        assert parameters == load_parameters("01_projection_training", "smoke", {})

    def test_the_parameters_cell_must_have_been_run(self, read):
        with pytest.raises(ParameterError, match="run the first cell"):
            read("samples = 3")

    def test_a_script_is_sent_to_load_parameters(self, monkeypatch):
        # Another test of this process may have run a notebook's cells.
        monkeypatch.setattr(parameters, "executed_cells", [])
        with pytest.raises(ParameterError, match="load_parameters"):
            from_notebook("01_projection_training", {"profile": "smoke"})


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS))
def test_every_parameter_of_every_notebook_says_what_it_is(notebook: str) -> None:
    fields = NOTEBOOKS[notebook].model_fields
    assert [name for name, field in fields.items() if not (field.description or "").strip()] == []


@pytest.mark.parametrize(
    ("notebook", "name", "file", "more"),
    [
        ("02_main_training", "text_files", "book.txt", {"source": "text"}),
        ("02_main_training", "tokenizer", "tokenizer.json", {}),
        ("05_reversal_curse", "facts_file", "facts.csv", {}),
        ("09_cascade", "embedding_source", "embedding.safetensors", {}),
        ("12_retrofit", "llama", "llama.gguf", {"llama_retrofits": ["mla"]}),
    ],
)
def test_other_content_of_a_named_file_is_another_run(tmp_path, notebook, name, file, more):
    place = tmp_path / file

    def identity():
        given = {name: [str(place)] if name == "text_files" else str(place)}
        return load_parameters(notebook, "smoke", given | more).identity()

    assert f"{name}_digest" not in identity(), "what is not there is refused later"
    place.write_text("one")
    first = identity()
    assert identity() == first
    place.write_text("another")
    assert different_keys(first, identity()) == [f"{name}_digest"]


def test_hub_ids_and_sources_that_need_no_file_have_no_digest():
    for notebook in NOTEBOOKS:
        for profile in ("cpu", "gpu"):
            assert not [name for name in load_parameters(notebook, profile, {}).identity() if name.endswith("_digest")]


def test_a_trial_knows_the_embedding_that_it_begins_with_by_its_content(tmp_path):
    """A run's folder by its weights, whatever else is written there; arms that take none over have nothing of it."""
    weights = tmp_path / "run" / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    parameters = main_training(embedding_source=str(tmp_path / "run"))

    def identity(*, reads_stream):
        return parameters.trial_identity("an arm", 0, trains_projection=True, reads_stream=reads_stream)

    weights.write_text("one")
    first = identity(reads_stream=True)
    (tmp_path / "run" / "notes.txt").write_text("noted later")
    assert identity(reads_stream=True) == first
    weights.write_text("another")
    assert different_keys(first, identity(reads_stream=True)) == ["embedding_source_digest"]
    assert not [name for name in identity(reads_stream=False) if "embedding_source" in name]

"""The files around the package: what is pinned, what make does, and what must not be in a public clone."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from newllm.files import project_root

ROOT = project_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK_FILES = ("requirements.lock", "docs/requirements.lock")
LOCK = {
    canonicalize_name(name): version
    for file in LOCK_FILES
    for name, version in re.findall(r"^([^#\s=]+)==(\S+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
}


def test_what_is_pinned_installs_on_the_oldest_python_that_is_promised():
    """Read of what is installed here; the documentation's packages may not be."""
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"{oldest}.0" in SpecifierSet(PROJECT["requires-python"])
    packages = [found for found in distributions() if canonicalize_name(found.name) in LOCK]
    assert len(packages) > 100
    asked = {found.name: SpecifierSet(str(found.metadata.json.get("requires_python", ""))) for found in packages}
    assert not {name: str(pythons) for name, pythons in asked.items() if f"{oldest}.0" not in pythons}


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git clone: nobody says which files belong to the project")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def make(*arguments, folder):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=folder, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout


@pytest.fixture
def fresh_clone(tmp_path):
    for name in ("Makefile", "pyproject.toml", *LOCK_FILES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


class TestLock:
    @pytest.mark.parametrize(
        "requirement",
        [
            *PROJECT["dependencies"],
            *(wanted for extra in ("dev", "docs", "scale") for wanted in PROJECT["optional-dependencies"][extra]),
            "setuptools>=77",
        ],
    )
    def test_holds_a_fitting_version_of_every_requirement(self, requirement):
        wanted = Requirement(requirement)
        assert canonicalize_name(wanted.name) in LOCK
        assert Version(LOCK[canonicalize_name(wanted.name)]) in wanted.specifier

    @pytest.mark.parametrize("file", LOCK_FILES)
    def test_is_made_of_pins_alone(self, file):
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        strange = [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)]
        assert strange == []  # no host, no local build such as +cpu, no path

    def test_pins_the_torch_that_installs_as_a_cpu_build_where_one_is_offered(self):
        assert LOCK["torch"] == "2.13.0"

    def test_conda_users_get_the_same_versions(self):
        environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
        python, pip, packages = environment["dependencies"]
        assert Version(python.partition("=")[2]) in Requirement(f"python{PROJECT['requires-python']}").specifier
        assert (pip, packages) == ("pip", {"pip": ["-r requirements.lock", "-e ."]})


class TestMake:
    @pytest.mark.parametrize(
        ("target", "commands"),
        [
            ("run", [".venv/bin/newllm start"]),
            ("lab", [".venv/bin/newllm lab"]),
            ("docs", ["--requirement docs/requirements.lock", ".venv/bin/mkdocs build --strict"]),
            ("test", ["ruff format --check", "ruff check", "mypy", "pytest"]),
        ],
    )
    def test_a_target_installs_the_lock_and_then_does_its_work(self, target, commands, fresh_clone):
        said = make(target, folder=fresh_clone)
        steps = [
            "-m venv .venv",
            "--requirement requirements.lock",
            "--no-deps --no-build-isolation --editable .",
            *commands,
        ]
        places = [said.find(step) for step in steps]
        assert -1 not in places
        assert places == sorted(places)

    def test_what_is_installed_is_not_installed_again(self, fresh_clone):
        (fresh_clone / ".venv").mkdir()
        (fresh_clone / ".venv" / ".installed").touch()
        assert "pip install" not in make("run", folder=fresh_clone)
        os.utime(fresh_clone / ".venv" / ".installed", (0, 0))  # older than the lock
        assert "pip install" in make("run", folder=fresh_clone)

    def test_without_a_target_it_runs(self, fresh_clone):
        assert make(folder=fresh_clone) == make("run", folder=fresh_clone)

    def test_another_run_can_be_asked_for(self, fresh_clone):
        assert ".venv/bin/newllm run 02 --profile smoke" in make("run", "RUN=02 --profile smoke", folder=fresh_clone)

    def test_ci_runs_the_same_test(self):
        script = ROOT / ".ci" / "run"
        assert os.access(script, os.X_OK)
        assert script.read_text(encoding="utf-8").splitlines()[-1] == "make test"


def test_no_file_names_a_machine():
    # Written in pieces, so that this file does not find itself.
    folders = ["home", "root", "Users", "work", "tmp", "opt"]
    places = re.compile(
        rf"(?<![\w.~$}}/*-])/(?:{'|'.join(folders)})/[A-Za-z]|file:/{{2}}|127\.0\.0\.\d|(?:index|find)-(?:url|links)"
    )
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked_files()
        if path.suffix not in {".png", ".npy", ".safetensors"} and path != ROOT / "tests" / "test_project.py"
        for match in places.finditer(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert found == []


def test_no_tracked_file_is_an_output_beyond_the_reference():
    strays = [
        path
        for path in tracked_files()
        if path.is_relative_to(ROOT / "outputs") and not path.is_relative_to(ROOT / "outputs" / "reference")
    ]
    assert strays == []


class TestDocuments:
    def test_the_map_of_the_readme_names_every_package(self):
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        map_of_the_tree = text.partition("## Where things are")[2]
        for init in (ROOT / "lib" / "newllm").rglob("*/__init__.py"):
            assert f" {init.parent.name}/ " in map_of_the_tree or f" {init.parent.name}/:" in map_of_the_tree

    def test_every_package_has_a_readme(self):
        missing = [init for init in (ROOT / "lib").rglob("__init__.py") if not (init.parent / "README.md").is_file()]
        assert missing == []

    def test_one_version_everywhere(self):
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
        assert citation["version"] == PROJECT["version"]
        changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        released = re.findall(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
        assert released[0] == (PROJECT["version"], str(citation["date-released"]))
        assert set(re.findall(r"^\[([\w.]+)\]: ", changes, re.MULTILINE)) == {"Unreleased", *(v for v, _ in released)}

    def test_files_that_contributing_says_to_copy_or_edit_are_there(self):
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        named = re.findall(r"`((?:lib|tests|params|notebooks)/[\w./]+\.(?:py|yaml|ipynb))`", text)
        assert len(named) > 10
        assert [name for name in named if not (ROOT / name).is_file()] == []

    def test_the_form_of_a_pull_request_is_the_checklist_of_contributing(self):
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Checklist of a pull request")[2]
        form = (ROOT / ".github" / "pull_request_template.md").read_text(encoding="utf-8")
        boxes = re.findall(r"^- \[ \] .+$", form, re.MULTILINE)
        assert boxes
        assert boxes == re.findall(r"^- \[ \] .+$", text, re.MULTILINE)

    @pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.stem)
    def test_the_questions_of_a_form_have_names_of_their_own(self, form):
        questions = [
            part for part in yaml.safe_load(form.read_text(encoding="utf-8"))["body"] if part["type"] != "markdown"
        ]
        assert len({part["id"] for part in questions}) == len(questions)
        assert all(part["attributes"]["label"] for part in questions)

    def test_the_workflow_does_what_ci_does_with_pinned_actions(self):
        text = (ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")
        steps = yaml.safe_load(text)["jobs"]["check"]["steps"]
        assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
        used = [step["uses"] for step in steps if "uses" in step]
        assert used
        assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in used)

"""The files around the package: what is pinned, what make does, and what must not be in a public clone."""

import os
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from newllm.commands.shared import read_assignments
from newllm.config.profiles import load_parameters
from newllm.files import project_root

ROOT = project_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([^#\s=]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
}


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
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


class TestLock:
    @pytest.mark.parametrize(
        "requirement", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"], "kaleido", "setuptools>=77"]
    )
    def test_holds_a_fitting_version_of_every_requirement(self, requirement):
        wanted = Requirement(requirement)
        assert canonicalize_name(wanted.name) in LOCK
        assert Version(LOCK[canonicalize_name(wanted.name)]) in wanted.specifier

    def test_is_made_of_pins_alone(self):
        lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
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
            ("run", [".venv/bin/newllm run 02 --profile cpu"]),
            ("lab", [".venv/bin/jupyter lab notebooks"]),
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

    def test_the_parameters_of_make_run_are_parameters(self):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        line = re.search(r"^RUN \?= 02 --profile (\w+) (.*)$", makefile, re.MULTILINE)
        assert line
        given = read_assignments([quoted or plain for quoted, plain in re.findall(r'-p (?:"([^"]+)"|(\S+))', line[2])])
        assert len(given) == line[2].count("-p ")
        parameters = load_parameters("02_main_training", line[1], given)
        assert parameters.identity()["seeds"] == [0]

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
        if path.suffix not in {".png", ".npy"} and path != ROOT / "tests" / "test_project.py"
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

"""A method of one's own, as its page writes it: one file put into a clone, and it takes part in everything."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from newllm.files import project_root
from newllm.runs.records_table import load_records

NAME = "key-as-value"
CLONED = ("lib", "params", "notebooks", "tests", "pyproject.toml")


def files_of_the_page() -> dict[str, str]:
    """Return the text of each Python file that the page writes, by its path."""
    text = (project_root() / "docs" / "compare_a_method.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n# (lib/\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return dict(blocks)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    for name in CLONED:
        source = project_root() / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, folder / name)
    files = files_of_the_page()
    assert len(files) == 1
    for path, text in files.items():
        assert not (folder / path).exists()
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def run(clone, *arguments: str) -> str:
    environment = os.environ | {
        "PYTHONPATH": str(clone / "lib"),
        "NEWLLM_OUTPUTS": str(clone / "outputs"),
        "NEWLLM_CACHE": str(clone / "cache"),
    }
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_passes_the_tests_of_every_model(clone):
    shown = run(clone, "pytest", "tests/models/test_every_model.py", "-k", NAME, "-p", "no:cacheprovider")
    dots = sum(line.split("[")[0].count(".") for line in shown.splitlines() if "%]" in line)
    assert dots > 20, shown


def test_it_stands_in_the_table_of_models_with_half_of_the_bytes(clone):
    shown = run(clone, "newllm.cli", "models", NAME, "--size", "tiny", "--contexts", "8", "--steps", "1")
    *_, row = (line.split() for line in shown.splitlines() if line.split()[:1] == [NAME])
    assert {"50.0%", "yes"} <= set(row)
    assert "no" not in row


def test_it_is_an_arm_of_a_notebook_and_leaves_a_record(clone):
    run(clone, "newllm.cli", "run", "02", "--profile", "smoke", "-p", f"arms=[{NAME}]", "-p", "seeds=[0]")
    record = load_records(clone / "outputs").iloc[0]
    assert record["arm"] == NAME
    assert record["kv_bytes"] == record["kv_formula_bytes"]

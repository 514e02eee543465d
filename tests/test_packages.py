"""The packages of the library: who may import whom, and what is not imported for what."""

import ast
import graphlib
import re
import subprocess
import sys

import pytest

from newllm.config.methods import method_names
from newllm.files import project_root
from newllm.models import names

LIBRARY = project_root() / "lib" / "newllm"

# From the ground up: each imports only what stands before it, and parts of its own.
ORDER = (
    *("files", "tensor_files", "runtime", "wording", "processes", "progress", "config", "auto_classes"),
    *("models", "data", "recurrence", "evaluation", "runs", "benchmarks", "training", "retrofit", "figures"),
    *("experiments", "analysis", "publication", "notebook", "commands", "cli", "__main__"),
)


def imports_of_modules() -> dict[str, set[str]]:
    """Return the modules that each module of the library names in an import, wherever the import stands."""
    files = {".".join(path.relative_to(LIBRARY).with_suffix("").parts): path for path in LIBRARY.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items() if name != "__init__"}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                asked = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                asked = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            parts = [one.removeprefix("newllm.") for one in asked if one.startswith("newllm.")]
            # `from newllm.models.config import X`: X is no module, newllm.models.config is one.
            found.setdefault(name, set()).update(one if one in files else one.rpartition(".")[0] for one in parts)
    return found


def package(module: str) -> str:
    return module.partition(".")[0]


def test_every_package_has_a_place_in_the_order():
    there = {path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__"} <= set(ORDER)


def test_documents_say_that_order():
    readme = (project_root() / "README.md").read_text(encoding="utf-8")
    tree = readme.partition("    lib/newllm/ ")[2].partition("    tests/")[0]
    lines = [re.match(r" {8}((?:\w+(?:\.py|/) +)+)", line) for line in tree.splitlines()]
    drawn = [name for line in lines if line for name in re.findall(r"\w+", line[1].replace(".py", ""))]
    assert tuple(drawn) == ORDER
    contributing = (project_root() / "CONTRIBUTING.md").read_text(encoding="utf-8")
    written = re.search(r"^ {4}(files <.*?)\n\n", contributing, re.DOTALL | re.MULTILINE)
    assert written and tuple(written[1].split()[::2]) == ORDER


def test_imports_go_one_way():
    wrong = [
        f"{module} imports {imported}"
        for module, asked in imports_of_modules().items()
        for imported in sorted(asked - {""})
        if ORDER.index(package(imported)) > ORDER.index(package(module))
    ]
    assert wrong == []


def test_no_modules_import_one_another_in_a_circle():
    # A package's own __init__ gathers what its modules define, so that alone is no circle.
    graph = {module: {other for other in asked if other != module} for module, asked in imports_of_modules().items()}
    graphlib.TopologicalSorter(graph).prepare()


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages, and the packages of the library, that a fresh interpreter has loaded after it."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1].split()
    return {name.partition(".")[0] for name in modules} | {
        ".".join(name.split(".")[:2]) for name in modules if name.startswith("newllm.")
    }


NOTEBOOK = {"IPython", "papermill", "ipywidgets", "nbclient", "newllm.notebook", "newllm.commands"}
FIGURES = {"plotly", "newllm.figures"}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import newllm.models", NOTEBOOK | FIGURES | {"pandas", "datasets"}),
        ("import newllm.runs.saved_model", NOTEBOOK | FIGURES),
        ("import newllm.data, newllm.data.facts, newllm.training.main, newllm.training.stream", NOTEBOOK | FIGURES),
        (
            "import newllm.cli, newllm.commands.arguments.run",
            NOTEBOOK - {"newllm.commands"} | FIGURES | {"torch", "pandas"},
        ),
        (
            "import newllm.config.profiles, newllm.config.methods",
            NOTEBOOK | FIGURES | {"torch", "transformers", "numpy"},
        ),
    ],
)
def test_nothing_is_loaded_for_what_does_not_need_it(statement, unwanted):
    assert loaded_by(statement) & unwanted == set()


def test_the_names_read_from_files_are_those_that_are_registered():
    assert list(method_names()) == names()

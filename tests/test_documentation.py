"""The documentation site builds, strictly, and every page of it is reached and complete."""

import ast
import re
import subprocess
import sys

import pytest

from newllm.files import project_root
from newllm.publication.site_documents import reference_pages


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_navigation(site):
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html")} - {"404.html"}
    home = (site / "index.html").read_text(encoding="utf-8")
    assert pages == {match[1] for match in re.finditer(r'href="([\w./]+\.html)"', home)} | {"index.html"}
    assert {page.replace(".md", ".html") for page in reference_pages()} <= pages


def test_docstrings_of_modules_classes_and_functions_are_in_the_reference(site):
    text = (site / "reference" / "newllm.recurrence.html").read_text(encoding="utf-8")
    for identifier in ("newllm.recurrence.oacd", "newllm.recurrence.oacd.oacd_loss"):
        assert f'id="{identifier}"' in text


def test_no_docstring_has_a_tag_that_a_page_would_hide():
    for path in (project_root() / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = re.sub(r"``.*?``|`[^`]*`", "", ast.get_docstring(node) or "", flags=re.DOTALL)
                assert not re.search(r"<[a-z]", text), (path.name, getattr(node, "name", "module"))


def test_nothing_is_fetched_to_show_a_page(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]+)"', text)
        strange = [address for address in fetched if "colab-badge" not in address and "canonical" not in address]
        assert strange == [], page.name

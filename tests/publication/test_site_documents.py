"""Documents of the clone as pages of the site: every link leads somewhere, there too."""

import re
import tomllib

import pytest

from newllm.files import project_root
from newllm.models import find, names
from newllm.publication.markdown import markdown_table, replace_links
from newllm.publication.methods_page import methods_page
from newllm.publication.notebook_table import notebook_table
from newllm.publication.site_documents import (
    code_address,
    colab_badge,
    project_address,
    reference_page,
    reference_pages,
    site_page,
    with_site_links,
)

ROOT = project_root()
README = ROOT / "README.md"


@pytest.mark.parametrize(
    ("address", "page", "expected"),
    [
        ("RESULTS.md", "index.md", "results.md"),
        ("RESULTS.md#decoding", "reference/newllm.models.md", "../results.md#decoding"),
        ("docs/index.md", "contributing.md", "index.md"),
        ("outputs/reference/quality_against_bytes.png", "results.md", "images/quality_against_bytes.png"),
        ("lib/newllm/models/README.md", "contributing.md", "reference/newllm.models.md"),
        ("lib/newllm/models", "reference/newllm.data.md", "newllm.models.md"),
        ("Makefile", "index.md", f"{code_address()}/Makefile"),
        ("https://example.org/x.md", "index.md", "https://example.org/x.md"),
        ("#words", "contributing.md", "#words"),
    ],
)
def test_a_link_leads_to_the_page_or_to_the_file(address, page, expected):
    assert with_site_links(f"see [it]({address}), there", README, page) == f"see [it]({expected}), there"


def test_a_link_to_nothing_is_refused():
    with pytest.raises(FileNotFoundError, match=r"README.md links to nothing.md"):
        with_site_links("[it](nothing.md)", README, "index.md")


def test_links_in_code_stay():
    text = "```python\nx[0](nothing.md)\n```\n"
    assert replace_links(text, lambda address: "changed") == text


def test_a_bar_within_a_cell_is_no_column():
    table = notebook_table().head(1).assign(asks="a | b")
    assert markdown_table(table).splitlines()[-1].count(" | ") == table.shape[1] - 1


@pytest.mark.parametrize("document", ["README.md", "RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_of_a_document_leads_somewhere(document):
    """`site_page` refuses the others."""
    assert site_page(document, "index.md")


def test_every_package_has_a_page_that_begins_with_its_readme_and_names_its_modules():
    packages = {path.parent for path in (ROOT / "lib" / "newllm").rglob("*.py") if path.name != "__init__.py"}
    assert {ROOT / folder for folder in reference_pages().values()} == packages
    for page, folder in reference_pages().items():
        text = reference_page(page)
        assert text.startswith(f"# {page.removeprefix('reference/').removesuffix('.md')}\n")
        for part in ("**Here**", "**May import**", "**To add**"):
            assert part in text, page
        modules = {path.stem for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("__")}
        assert {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)} == modules


def test_every_method_has_a_row_with_its_papers_and_its_file():
    page = methods_page("https://example.org")
    for name in names():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| [`{name}`](")]
        assert "https://example.org/lib/newllm/models/methods/" in row
        assert all(paper.address in row for paper in find(name).papers)
        assert all(f"{paper.year}" in row for paper in find(name).papers)
        assert find(name).papers or "| new here |" in row
    assert re.search(r"\| \[`mla`\].*\| 68,448,256 \| 768,000 \| 12.50% \|", page)
    assert re.search(r"\| \[`cascade`\].*\| 41,230,040 \| 1,000 \| 0.02% \|", page)


def test_the_address_of_the_project_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project["urls"]["Repository"]
    assert project_address() == address
    assert code_address().startswith(address)
    assert address.removeprefix("https://github.com") in colab_badge("02_main_training")
    own = re.compile(
        r"github\.com/(?:github/)?([\w.-]+/newllm)\b|colab\.research\.google\.com/github/([\w.-]+/newllm)\b"
    )
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), *(ROOT / "notebooks").glob("*.ipynb")]:
        for match in own.finditer(path.read_text(encoding="utf-8")):
            assert address == f"https://github.com/{match[1] or match[2]}", path.name

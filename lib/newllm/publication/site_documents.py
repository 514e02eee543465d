"""The project's own documents as pages of the documentation site, with their links as they must be there."""

import posixpath
import tomllib
from pathlib import Path, PurePosixPath

from newllm.files import project_root
from newllm.publication.markdown import replace_links

# The documents of the clone that are pages of the site, and pictures of the clone that its pages show: address there.
DOCUMENT_PAGES = {
    "RESULTS.md": "results.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
PICTURES = {
    "outputs/reference/quality_against_bytes.png": "images/quality_against_bytes.png",
    "outputs/reference/claims.png": "images/claims.png",
}
# Pages that no document says.
METHODS_PAGE, PARAMETERS_PAGE = "methods.md", "parameters.md"

DOCUMENTS_FOLDER = PurePosixPath("docs")


def project_address() -> str:
    """Return where the project lives, as ``pyproject.toml`` says."""
    project = tomllib.loads((project_root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address: str = project["urls"]["Repository"]
    return address


def code_address() -> str:
    """Return where the files of the main branch can be read."""
    return f"{project_address()}/blob/main"


def colab_badge(notebook: str) -> str:
    """Write the badge that opens a notebook in Colab.

    Parameters
    ----------
    notebook
        Its name, such as ``02_main_training``.
    """
    opened = project_address().replace("https://github.com", "https://colab.research.google.com/github")
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({badge})]({opened}/blob/main/notebooks/{notebook}.ipynb)"


def reference_pages() -> dict[str, PurePosixPath]:
    """Return the page of each package that has modules, with the package's folder in the clone."""
    library = project_root() / "lib" / "newllm"
    folders = [path.parent for path in sorted(library.rglob("__init__.py")) if any(path.parent.glob("[!_]*.py"))]
    return {
        f"reference/{'.'.join(folder.relative_to(library.parent).parts)}.md": _in_the_clone(folder)
        for folder in folders
    }


def reference_page(page: str) -> str:
    """Write a page of the reference: the package's README, and what the docstrings of its modules say."""
    folder = reference_pages()[page]
    modules = sorted(path.stem for path in (project_root() / folder).glob("[!_]*.py"))
    package = ".".join(folder.parts[1:])
    head = site_page(str(folder / "README.md"), page)
    return "\n".join([head, *(f"\n::: {package}.{module}" for module in modules)])


def site_page(document: str, page: str) -> str:
    """Return a document of the clone as the site shows it.

    Parameters
    ----------
    document
        Path in the clone, such as ``RESULTS.md``, ``docs/index.md`` or ``lib/newllm/models/README.md``.
    page
        Path of its page in the site.

    Raises
    ------
    FileNotFoundError
        For a link to a file that neither the clone nor the site has.
    """
    path = project_root() / document
    return with_site_links(path.read_text(encoding="utf-8"), path, page)


def with_site_links(text: str, document: Path, page: str) -> str:
    """Change the links of a text that stands in a document of the clone to what they must be on a page of the site."""
    return replace_links(text, lambda address: _in_the_site(address, document, page))


def _in_the_site(address: str, document: Path, page: str) -> str:
    if "://" in address or address.startswith("#"):
        return address
    target, hash_sign, anchor = address.partition("#")
    inside = _in_the_clone((document.parent / target).resolve())
    there = _page_of(inside)
    if there is not None:
        return posixpath.relpath(there, posixpath.dirname(page) or ".") + hash_sign + anchor
    if not (project_root() / inside).exists():
        raise FileNotFoundError(f"{_in_the_clone(document)} links to {address}, which the clone does not have")
    return f"{code_address()}/{inside}{hash_sign}{anchor}"


def _page_of(inside: PurePosixPath) -> str | None:
    """Return where a file of the clone stands in the site; None where it does not."""
    for page, folder in reference_pages().items():
        if inside in (folder, folder / "README.md"):
            return page
    if inside.is_relative_to(DOCUMENTS_FOLDER):
        return str(inside.relative_to(DOCUMENTS_FOLDER))
    return {**DOCUMENT_PAGES, **PICTURES, "README.md": "index.md"}.get(str(inside))


def _in_the_clone(path: Path) -> PurePosixPath:
    return PurePosixPath(path.relative_to(project_root()).as_posix())

"""What `mkdocs build` asks while it builds the documentation site: its generated pages, and links into the clone."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from newllm.files import project_root
from newllm.publication.markdown import markdown_table
from newllm.publication.methods_page import methods_page
from newllm.publication.notebook_table import notebook_table
from newllm.publication.parameters_page import parameters_page
from newllm.publication.site_documents import (
    DOCUMENT_PAGES,
    METHODS_PAGE,
    PARAMETERS_PAGE,
    PICTURES,
    code_address,
    project_address,
    reference_page,
    reference_pages,
    site_page,
    with_site_links,
)

# Where a page of docs/ shows the table of notebooks.
NOTEBOOK_TABLE = "<!-- the table of notebooks -->"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the project's address, and put every page that is there into the navigation."""
    config.repo_url = project_address()
    config.repo_name = project_address().removeprefix("https://github.com/")
    assert config.nav is not None
    named = str(config.nav)
    others = sorted(path.name for path in Path(config.docs_dir).glob("*.md") if f"'{path.name}'" not in named)
    sections = {title: pages for entry in config.nav for title, pages in entry.items()}
    sections["Guide"].extend(others)
    sections["Reference"].extend({Path(page).stem: page} for page in reference_pages())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that do not stand in docs/."""
    made = {page: site_page(document, page) for document, page in DOCUMENT_PAGES.items()}
    made |= {page: reference_page(page) for page in reference_pages()}
    made |= {METHODS_PAGE: methods_page(code_address()), PARAMETERS_PAGE: parameters_page()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    for picture, place in PICTURES.items():
        files.append(File.generated(config, place, abs_src_path=str(project_root() / picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page of docs/ lead out of it, and fill in its tables."""
    if page.file.generated_by is not None:
        return markdown
    name = page.file.src_uri
    text = site_page(f"docs/{name}", name)
    # The table is written for README, so its links are as they would be there.
    table = with_site_links(markdown_table(notebook_table()), project_root() / "README.md", name)
    return text.replace(NOTEBOOK_TABLE, table)

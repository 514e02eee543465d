"""The templates of the HTML pages."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def page_template(name: str, **filters: Callable[..., Any]) -> Template:
    """Open a template of a page: every text that it is given is escaped, and what it is not given is an error.

    Parameters
    ----------
    name
        A file of ``pages/``.
    **filters
        Functions that the template calls by these names.
    """
    environment = Environment(
        loader=PackageLoader("newllm.publication", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)

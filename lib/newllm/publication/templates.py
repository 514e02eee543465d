"""The templates of the HTML pages."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

FEW_BYTES = 100


def page_template(name: str, **filters: Callable[..., Any]) -> Template:
    """Open a template of a page: every text that it is given is escaped, and what it is not given is an error.

    Parameters
    ----------
    name
        A file of ``pages/``.
    **filters
        Functions that the template calls by these names, beside `kept`.
    """
    environment = Environment(
        loader=PackageLoader("newllm.publication", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"kept": kept, **filters}
    return environment.get_template(name)


def kept(bytes_per_token: float) -> str:
    """Write what a cache keeps of a token: in whole bytes, or of a few with their fraction."""
    return f"{bytes_per_token:,.4g}" if bytes_per_token < FEW_BYTES else f"{bytes_per_token:,.0f}"

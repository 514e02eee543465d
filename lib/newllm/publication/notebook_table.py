"""The table of notebooks, as README and the documentation site show it."""

import json
import re

import pandas as pd

from newllm.files import project_root
from newllm.publication.answers import published_answer
from newllm.publication.site_documents import colab_badge

_HEADING = re.compile(r"^# (?P<title>[^:\n]+): (?P<question>.+)$", re.MULTILINE)


def notebook_table() -> pd.DataFrame:
    """Write what each notebook asks, as its own heading says, what is published of it, and the badge for Colab.

    Raises
    ------
    ValueError
        For a notebook whose first cell has no such heading.
    """
    rows = []
    for path in sorted((project_root() / "notebooks").glob("*.ipynb")):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        heading = _HEADING.search(first)
        if heading is None:
            raise ValueError(f"{path.name} must begin with a heading such as '# 02 Main training: what does it cost?'")
        rows.append(
            {
                "notebook": f"[{heading['title']}](notebooks/{path.name})",
                "asks": heading["question"][0].upper() + heading["question"][1:],
                "published answer": published_answer(path.stem),
                "runs in": colab_badge(path.stem),
            }
        )
    return pd.DataFrame(rows)

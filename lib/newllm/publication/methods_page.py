"""The page of the documentation site that lists every method: where it comes from, what it keeps, how large it is."""

import inspect
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from newllm.files import project_root
from newllm.models import create, find, names
from newllm.models.registry import BASELINE
from newllm.publication.markdown import markdown_table

SIZE = "70m"
TOKENS = 1000

_HEAD = f"""\
---
hide: [navigation]
---

# Methods

Every way of remembering that `newllm.models.create(name, size)` builds, the widest cache first, at the {SIZE} shape.
What one sequence keeps after {TOKENS:,} tokens is counted in values, so it does not depend on the dtype. How well each
one predicts is in the [results](results.md); how to add one, in
[Compare a method of your own](compare_a_method.md).
"""


def methods_page(code_address: str) -> str:
    """Write the page.

    Parameters
    ----------
    code_address
        Where the clone's files can be read, such as ``https://example.org/newllm/blob/main``.
    """
    rows = sorted(map(_row, names()), key=lambda row: (-row["values"], row["name"]))
    baseline = next(row["values"] for row in rows if row["name"] == BASELINE)
    table = pd.DataFrame(
        {
            "method": f"[`{row['name']}`]({code_address}/{row['path'].as_posix()})",
            "keeps": row["keeps"],
            "year": "<br>".join(str(paper.year) for paper in row["papers"]),
            "paper": "<br>".join(f"[{paper.authors}]({paper.address})" for paper in find(row["name"]).papers)
            or "new here",
            "parameters": f"{row['parameters']:,}",
            f"values after {TOKENS:,} tokens": f"{row['values']:,}",
            f"of `{BASELINE}`'s": f"{row['values'] / baseline:.2%}",
        }
        for row in rows
    )
    return f"{_HEAD}\n{markdown_table(table, right=list(table.columns)[4:])}"


def _row(name: str) -> dict[str, Any]:
    # On the meta device a model has shapes and no memory, whatever its size.
    with torch.device("meta"):
        model = create(name, SIZE)
    return {
        "name": name,
        "keeps": find(name).summary,
        "papers": find(name).papers,
        "values": model.cached_values(TOKENS),
        "parameters": model.num_parameters(),
        "path": Path(inspect.getfile(type(model))).relative_to(project_root()),
    }

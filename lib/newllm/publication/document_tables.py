"""The tables of README and RESULTS, written between marks: from the reference results, and from the notebooks."""

import re
from collections.abc import Callable

import pandas as pd

from newllm.files import project_root, write_atomically
from newllm.publication.arm_tables import (
    encodings,
    glance,
    glance_at_code,
    learning_rates,
    same_encoding,
    savings,
    sotu,
    stdlib,
)
from newllm.publication.claims_table import claims
from newllm.publication.cost_tables import (
    cache_precision,
    decoding,
    decoding_circumstances,
    decoding_reads,
    limits,
    models_at_70m,
    side_by_side,
)
from newllm.publication.hours_tables import budgets, hours, hours_by_trial
from newllm.publication.markdown import markdown_table
from newllm.publication.notebook_table import notebook_table
from newllm.publication.published import UnpublishedError
from newllm.publication.recall_tables import (
    baseline_recall,
    copying_layers,
    passages,
    passages_of_code,
    passes_over_code,
    recall,
    recall_in_code,
    truncated_contexts,
)
from newllm.publication.recipe_tables import first_tables, optimisers, rates_of_all_text, rates_on_code, text_budgets
from newllm.publication.retrofit_tables import healed_retrofits, llama_retrofits, retrofit_or_training, retrofits
from newllm.publication.seed_tables import pooled_verdicts, seed_spreads
from newllm.publication.stage_tables import leaks, projection_training, treatments
from newllm.publication.study_tables import (
    cascade,
    context_kv,
    exchanged_attention,
    position_encodings,
    reversal_curse,
    windows,
)

DOCUMENTS = ("README.md", "RESULTS.md")

# Columns of words, which stand on the left.
WORDS = (
    "verdict",
    "full attention of its encoding",
    "text",
    "experiment",
    "numbers",
    "what would tell",
    "least",
    "most",
    "without one arm",
    "left out is one of",
    "read as",
    "control",
    "mask",
    "taken for a leak",
)

# <!-- table: name --> ... <!-- /table -->
MARKED = re.compile(r"(<!-- table: ([^>]+) -->\n).*?(<!-- /table -->\n)", re.DOTALL)


def renew_tables() -> None:
    """Write the tables of all documents anew."""
    for name in DOCUMENTS:
        path = project_root() / name
        write_atomically(path, with_tables(path.read_text(encoding="utf-8")))


def with_tables(text: str) -> str:
    """Replace what stands between each pair of marks of a document by its table.

    Raises
    ------
    ValueError
        Where there are no marks, or a mark names no table.
    """
    if not MARKED.search(text):
        raise ValueError("the document has no <!-- table: name --> ... <!-- /table --> to put tables between")
    return MARKED.sub(lambda mark: f"{mark[1]}\n{_markdown(mark[2])}\n{mark[3]}", text)


def _markdown(name: str) -> str:
    if name not in TABLES:
        raise ValueError(f"the document asks for the table {name!r}, which is none of {', '.join(TABLES)}")
    try:
        table = TABLES[name]()
    except UnpublishedError as error:
        return f"*{str(error).capitalize()}.*\n"
    right = [column for column in table.columns[1:] if column not in WORDS]
    return markdown_table(table, right=[] if TABLES[name] is notebook_table else right)


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "arms": glance,
    "arms on code": glance_at_code,
    "encodings": encodings,
    "sotu": sotu,
    "what pythia gains": baseline_recall,
    "recall": recall,
    "passages": passages,
    "passages of code": passages_of_code,
    "copying layers": copying_layers,
    "passes over code": passes_over_code,
    "truncated contexts": truncated_contexts,
    "same encoding": same_encoding,
    "savings": savings,
    "stdlib": stdlib,
    "seeds": seed_spreads,
    "pooled verdicts": pooled_verdicts,
    "recall in code": recall_in_code,
    "first tables": first_tables,
    "optimisers": optimisers,
    "learning rates": learning_rates,
    "treatments": treatments,
    "windows": windows,
    "claims": claims,
    "retrofits": retrofits,
    "healed retrofits": healed_retrofits,
    "llama retrofits": llama_retrofits,
    "retrofit or training": retrofit_or_training,
    "hours": hours,
    "hours by trial": hours_by_trial,
    "budgets": budgets,
    "text budgets": text_budgets,
    "rates of all text": rates_of_all_text,
    "rates on code": rates_on_code,
    "models at 70m": models_at_70m,
    "decoding": decoding,
    "decoding reads": decoding_reads,
    "decoding circumstances": decoding_circumstances,
    "limits": limits,
    "side by side": side_by_side,
    "cache precision": cache_precision,
    "reversal curse": reversal_curse,
    "position encodings": position_encodings,
    "exchanged attention": exchanged_attention,
    "context-kv": context_kv,
    "cascade": cascade,
    "projection training": projection_training,
    "leaks": leaks,
    "notebooks": notebook_table,
}

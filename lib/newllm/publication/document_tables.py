"""The tables of README and RESULTS, written between marks: from the reference results, and from the notebooks."""

import re
from collections.abc import Callable

import pandas as pd

from newllm.analysis.claims import judge_claims
from newllm.analysis.retrofits import beside_training, retrofit_stages, stages_table
from newllm.files import project_root, write_atomically
from newllm.models.registry import BASELINE
from newllm.publication.arm_tables import (
    encodings,
    glance,
    learning_rates,
    same_encoding,
    savings,
    sotu,
    stdlib,
)
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
from newllm.publication.published import (
    UnpublishedError,
    published_evidence,
    published_retrofits,
    published_sweep,
    published_table,
    published_trials,
)
from newllm.publication.recall_tables import baseline_recall, recall, recall_in_code, truncated_contexts
from newllm.publication.recipe_tables import first_tables, optimisers, text_budgets
from newllm.publication.stage_tables import leaks, projection_training, treatments
from newllm.publication.study_tables import cascade, context_kv, position_encodings, windows
from newllm.retrofit.report import ABSORBABLE, ORIGINAL
from newllm.retrofit.smollm2 import SMOLLM2
from newllm.wording import plus_minus, with_interval

DOCUMENTS = ("README.md", "RESULTS.md")

# Columns of words, which stand on the left.
WORDS = (
    "verdict",
    "full attention of its encoding",
    "text",
    "experiment",
    "numbers",
    "what would tell",
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


def claims() -> pd.DataFrame:
    """Write what became of each claim of the project that came before."""
    judged = judge_claims(published_trials(), published_evidence())
    return pd.DataFrame(
        [
            {
                "claim": f"{row['claim']}. {row['words']}",
                "verdict": f"**{row['verdict']}**",
                "experiment": row["experiment"],
                "numbers": row["numbers"],
                "what would tell": row["would_tell"],
            }
            for row in judged.to_dict("records")
        ]
    )


def retrofits() -> pd.DataFrame:
    """Write what a trained model has lost where nothing was trained after it, the most bytes first."""
    stages = _stages()
    # Where only the position encoding was made absorbable, nothing is left out yet.
    return stages_table(stages[(stages["healing_tokens"] == 0) & (stages["stage"] != ABSORBABLE)])


def _stages(parent: str = BASELINE) -> pd.DataFrame:
    stages = retrofit_stages(published_retrofits(parent))
    if stages.empty:
        raise UnpublishedError("not published yet: `newllm retrofit`")
    return stages


def retrofit_or_training() -> pd.DataFrame:
    """Write what the same model has when it was converted, and when it was trained from nothing."""
    table = beside_training(published_retrofits(), published_sweep("sotu"))
    if table.empty:
        raise UnpublishedError("not published yet: `newllm retrofit`")
    return pd.DataFrame(
        [
            {
                "KV bytes a token (measured)": f"{row['bytes_per_token']:,.0f}",
                "how it was made": f"`{row['arm']}`, from nothing" if pd.isna(row["what"]) else row["what"],
                "tokens of training, the parent's too": f"{row['tokens']:,.0f}",
                "perplexity": f"{row['perplexity']:.1f}",
                "nats/token beside training from nothing": plus_minus(row, "difference", "{:+.3f}"),
                "seeds": f"{row['seeds']}",
            }
            for row in table.to_dict("records")
        ]
    )


def llama_retrofits() -> pd.DataFrame:
    """Write the same of SmolLM2, with what making its position encoding absorbable costs."""
    return stages_table(_stages(SMOLLM2))


def healed_retrofits() -> pd.DataFrame:
    """Write what is lost after some training, beside the same training of what the controls are."""
    stages = _stages()
    healed = stages[stages["healing_tokens"] > 0]
    if healed.empty:
        raise UnpublishedError("not published yet: `newllm retrofit ... -p healing_tokens=...`")
    return stages_table(pd.concat([stages[stages["stage"] == ORIGINAL], healed]))


def reversal_curse() -> pd.DataFrame:
    """Write what models know of facts that they were taught in one direction."""
    summary = published_table("05_reversal_curse/tables/reversal")
    before = summary[~summary["taught"]].set_index("arm")
    rows = []
    for _, row in summary[summary["taught"]].iterrows():
        untaught = before.loc[row["arm"]]
        rows.append(
            {
                "model": f"`{row['arm']}`",
                "held-out text": f"{untaught['text_perplexity']:.0f} → {row['text_perplexity']:.0f}",
                "forward": f"{untaught['forward_perplexity']:.0f} → {row['forward_perplexity']:.1f}",
                "backward": f"{untaught['backward_perplexity']:.0f} → {row['backward_perplexity']:.0f}",
                "ratio": f"{row['ratio']:.3f}",
                "gap": f"{row['gap']:.0f}",
                "margin gained forward": with_interval(row, "forward_gain", 2),
                "margin gained backward": with_interval(row, "backward_gain", 2),
                "seeds": row["seeds"],
            }
        )
    return pd.DataFrame(rows)


def exchanged_attention() -> pd.DataFrame:
    """Write what becomes of weights that are read by another attention than that of their training."""
    readings = published_table("10_key_attention_and_projected_values/tables/readings")
    return pd.DataFrame(
        [
            {
                "trained as": f"`{row['trained_as']}`",
                "read as": f"`{row['read_as']}`, {row['scored']}",
                "perplexity": f"{row['perplexity']:.1f}",
                "nats/token from reading as trained": ""
                if row["read_as"] == row["trained_as"]
                else with_interval(row, "difference"),
                "seeds": row["seeds"],
            }
            for _, row in readings.iterrows()
        ]
    )


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "arms": glance,
    "encodings": encodings,
    "sotu": sotu,
    "what pythia gains": baseline_recall,
    "recall": recall,
    "truncated contexts": truncated_contexts,
    "same encoding": same_encoding,
    "savings": savings,
    "stdlib": stdlib,
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

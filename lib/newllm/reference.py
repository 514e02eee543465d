"""The reference results: records that are committed, and the README's picture and table, made from them."""

import shutil
from pathlib import Path

import pandas as pd
import plotly.io

from newllm import figures
from newllm.config import MainTraining
from newllm.experiment import EVALUATION_FILE, HISTORY_FILE, summarize_arms
from newllm.files import write_atomically
from newllm.folders import project_root
from newllm.runs import FIGURES_FOLDER, RECORD_FILE, TABLES_FOLDER, load_records, read_record

KEPT_FILES = (RECORD_FILE, EVALUATION_FILE, HISTORY_FILE)
KEPT_FOLDERS = {TABLES_FOLDER: "*.csv", FIGURES_FOLDER: "*.png"}
PICTURE = "quality_against_bytes.png"
BASELINE = "pythia"
MARKS = ("<!-- reference -->\n", "<!-- /reference -->\n")


def reference_folder() -> Path:
    """Return where the committed records are."""
    return project_root() / "outputs" / "reference"


def publish(run: Path) -> None:
    """Take the results of a run among the reference results, and renew the README's picture and table.

    Each record goes to the folder of the notebook that made it; tables and drawn figures to that of this run's
    notebook. Weights and checkpoints stay behind.

    Parameters
    ----------
    run
        Folder of a finished run of a notebook.

    Raises
    ------
    ValueError
        Where the folder holds no record.
    RuntimeError
        Where kaleido finds no Chrome or Chromium to draw the picture.
    """
    records = sorted(run.rglob(RECORD_FILE))
    if not records:
        raise ValueError(f"{run} holds no record: give the folder of a finished run.")
    for record in records:
        target = reference_folder() / read_record(record.parent).notebook / record.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for name in KEPT_FILES:
            shutil.copyfile(record.parent / name, target / name)
    for folder, pattern in KEPT_FOLDERS.items():
        for path in sorted((run / folder).glob(pattern)):
            target = reference_folder() / run.parent.name / folder
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.name)
    summary = reference_summary()
    figure = figures.quality_against_bytes(
        summary.rename(columns={"bits_per_byte_low": "low", "bits_per_byte_high": "high"})
    )
    plotly.io.write_image(figure, reference_folder() / PICTURE, width=820, height=460, scale=2)
    readme = project_root() / "README.md"
    write_atomically(readme, with_table(readme.read_text(encoding="utf-8"), markdown(summary)))


def reference_summary() -> pd.DataFrame:
    """Summarise the committed records of main training: one row an arm, the lowest perplexity first."""
    return summarize_arms(load_records(reference_folder() / MainTraining.notebook), baseline=BASELINE)


def markdown(summary: pd.DataFrame) -> str:
    """Write a summary as a Markdown table.

    Parameters
    ----------
    summary
        As :func:`newllm.experiment.summarize_arms` gives it, with differences from the baseline.
    """
    lines = [
        "| model | parameters | KV bytes/token | perplexity | bits/byte | nats/token from `pythia` | seeds |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for _, row in summary.iterrows():
        several = row["seeds"] > 1
        half = (row["perplexity_high"] - row["perplexity_low"]) / 2
        perplexity = f"{row['perplexity']:.1f}" + (f" ± {half:.1f}" if several else "")
        difference = "" if pd.isna(row["difference"]) else _difference(row)
        lines.append(
            f"| `{row['arm']}` | {row['parameter_count']:,.0f} | {row['kv_bytes_per_token']:,.0f} | {perplexity} "
            f"| {row['bits_per_byte']:.3f} | {difference} | {row['seeds']} |"
        )
    return "\n".join(lines) + "\n"


def _difference(row: pd.Series) -> str:
    return f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"


def with_table(text: str, table: str) -> str:
    """Replace what stands between the marks of a README by a table."""
    before, found, rest = text.partition(MARKS[0])
    _, closed, after = rest.partition(MARKS[1])
    if not found or not closed:
        raise ValueError(f"the README has no {MARKS[0].strip()} ... {MARKS[1].strip()} to put the table between")
    return f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}"

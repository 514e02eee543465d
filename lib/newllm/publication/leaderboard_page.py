"""The leaderboard as one HTML page: everything is in the file, nothing is fetched, and it works without scripts."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import yaml

from newllm.files import outputs_folder, project_root
from newllm.publication.leaderboard import Board, Budget
from newllm.publication.picture import picture_of
from newllm.publication.templates import page_template
from newllm.runs.record import RECORD_FILE, read_record
from newllm.wording import number, plus_minus, with_interval

TEMPLATE = "leaderboard.html"


def render(board: Board, target: Path) -> str:
    """Write the page.

    Parameters
    ----------
    board
        What to show.
    target
        Where the page will stand; links to records are relative to its folder.

    Returns
    -------
    str
        HTML. Every text from a record is escaped.
    """
    template = page_template(TEMPLATE, number=number, plus_minus=plus_minus, with_interval=with_interval)
    first = board.budgets[0] if board.budgets else None
    return template.render(
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        sections=[_section(budget, first, target) for budget in board.budgets],
        set_apart=[_apart(row) for _, row in board.set_apart.iterrows()],
        methods=sorted({method for budget in board.budgets for method in budget.summary["method"]}),
        sizes=sorted({budget.settings["size"] for budget in board.budgets}),
        records=sum(len(budget.records) for budget in board.budgets),
        copies=sum(len(places) - 1 for budget in board.budgets for places in budget.records["places"]),
    )


def short_path(path: Path) -> str:
    """Name a file by its place in the clone or in the outputs, without the machine's folders."""
    for root in (project_root(), outputs_folder()):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return Path(*path.parts[-4:]).as_posix()


def _section(budget: Budget, first: Budget | None, target: Path) -> dict[str, Any]:
    rows = [
        {**row, "id": f"{budget.name}-{index}", "records": _records(budget.records, row["arm"], target)}
        for index, row in enumerate(budget.summary.to_dict("records"))
    ]
    return {
        "name": budget.name,
        "title": budget.title,
        # The windows' fingerprint is long, and its beginning tells it from others.
        "settings": {
            key: value[:8] if key == "data" else value for key, value in budget.settings.items() if value is not None
        },
        "notebooks": sorted(set(budget.records["notebook"])),
        "differences": "" if first is None else budget.differences(first),
        "rows": rows,
        "floor": budget.floor.to_dict("records"),
        **picture_of(budget.summary),
    }


def _records(records: pd.DataFrame, row: str, target: Path) -> list[dict[str, Any]]:
    """Describe the record of each seed of a row."""
    described = []
    for _, found in records[records["row"] == row].iterrows():
        file = found["folder"] / RECORD_FILE
        record = read_record(found["folder"])
        described.append(
            {
                **found,
                # A table makes NaN of what is missing, such as the commit of a run outside a clone.
                **record.provenance.model_dump(),
                "file": short_path(file),
                "link": quote(Path(os.path.relpath(file, target.parent)).as_posix()),
                "finished": record.provenance.finished_at.strftime("%Y-%m-%d %H:%M"),
                "parameters": yaml.safe_dump(record.parameters, sort_keys=False, default_flow_style=None),
                "continuations": record.continuations,
            }
        )
    return described


def _apart(row: pd.Series) -> dict[str, Any]:
    texts = {key: "" if row[key] is None else str(row[key]) for key in ("arm", "seed", "reason")}
    return {**texts, "file": short_path(Path(row["file"]))}

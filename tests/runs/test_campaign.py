"""A small run ended at file-system events, on a full disk, with damaged files: it ends with its numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# Every second state of the disk and every second fault, for all of them take six minutes of a core; 1 takes all.
STRIDE = 2


def campaign(name: str, folder: Path, *arguments: int) -> dict[str, Any]:
    """Run a campaign in a process of its own, which may fork as it likes."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.runs.campaign", name, str(folder / "campaign"), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "lib"), "TQDM_DISABLE": "1"},
        capture_output=True,
        timeout=1200,
        check=False,
    )
    assert process.returncode == 0, process.stderr.decode()[-3000:]
    result: dict[str, Any] = json.loads(process.stdout)
    return result


def test_a_run_that_is_killed_at_any_event_ends_with_the_same_numbers(tmp_path):
    found = campaign("killed_runs", tmp_path, STRIDE)
    assert found["failed"] == []
    assert found["events"] > 120
    assert found["restarts"] > 60


def test_a_deletion_that_is_killed_at_any_event_leaves_a_run_that_goes_on(tmp_path):
    found = campaign("killed_deletions", tmp_path, STRIDE)
    assert found["failed"] == []
    assert found["restarts"] > 20


def test_a_full_disk_is_harmless(tmp_path):
    found = campaign("full_disk", tmp_path, 12)
    assert found["failed"] == []
    assert found["refused"] >= 8


def test_no_damage_passes_silently(tmp_path):
    found = campaign("every_fault", tmp_path, STRIDE)
    assert found["silent"] == []
    for state, least in (("finished", 25), ("half-finished", 3)):
        counts = found["counts"][state]
        assert counts["silent"] == 0
        assert counts["made good"] > least

"""Records on disk, as runs leave them, for the tests of the leaderboard."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from newllm.config.experiment import ExperimentParameters
from newllm.experiments.arms import Arm
from newllm.files import to_json, write_atomically
from newllm.runs.record import RECORD_FILE, Record

SETTINGS: dict[str, Any] = {"profile": "cpu", "samples": 2000, "seq_length": 128, "epochs": 3, "seeds": [0]}
START = datetime(2030, 1, 1, tzinfo=UTC)


def write_record(
    folder: Path,
    arm: str = "pythia",
    seed: int = 0,
    bits: float = 2.0,
    day: int = 0,
    kept: float = 8192.0,
    **changes: Any,
) -> Path:
    """Write a record, finished on that day, and return its file; ``changes`` are other parameters."""
    parsed = Arm.parse(arm)
    own = {key: value for key, value in changes.items() if key not in {"notebook", "processor", "data"}}
    identity = ExperimentParameters(**{**SETTINGS, "arms": [arm], **own}).trial_identity(
        arm, seed, trains_projection=parsed.trains_projection, reads_stream=parsed.reads_stream
    )
    settings = identity | {"data": changes.get("data", "a1")}
    record = Record.model_validate(
        {
            "notebook": changes.get("notebook", "02_main_training"),
            "profile": settings["profile"],
            "arm": arm,
            "method": parsed.method,
            "size": settings["size"],
            "seed": seed,
            "parameters": settings,
            "parameter_count": 5_000_000,
            "metrics": {"perplexity": 100.0 * bits, "bits_per_byte": bits, "validation_loss": bits},
            "cache": {
                "tokens": 128,
                "dtype": "float32",
                "measured_bytes": int(128 * kept),
                "formula_bytes": int(128 * kept),
                "bytes_per_token": kept,
            },
            "certificate": {"passed": True, "max_change": 1e-15},
            "continuations": [{"prompt": "The people", "text": " <b>said</b> & wrote"}],
            "duration_seconds": 60.0,
            "provenance": {
                "commit": "0123456789abcdef0123456789abcdef01234567",
                "has_uncommitted_changes": False,
                "versions": {"python": "3.11.7", "torch": "2.13.0"},
                "machine": {"system": "Linux", "processor": changes.get("processor", "Some Processor"), "cpu_count": 2},
                "finished_at": START + timedelta(days=day),
            },
        }
    )
    return write_atomically(folder / RECORD_FILE, to_json(record))

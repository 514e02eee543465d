"""Studies: what each arm changes against the base arm, and what the change does."""

import json

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from newllm.analysis.studies import changed_settings, one_change_each
from newllm.config.experiment import StudyParameters
from newllm.experiments.arms import Arm

ARMS = (
    "pythia",
    "cascade",
    "cascade@token_context=current",
    "cascade@num_blocks=1,context_dim=80",
    "cascade@num_blocks=4,context_dim=20",
    "cascade-random",
    "cascade@freeze_embedding=false",
)
SEEDS = (0, 1, 2)


def settings(**changes):
    values = {"profile": "test", "size": "tiny", "samples": 8, "seq_length": 16, "epochs": 1, "projection_samples": 8}
    return StudyParameters(**values | {"arms": ARMS, "seeds": SEEDS, "base_arm": "cascade"} | changes)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records as `compare` gives them, each arm better or worse by a tenth of its number."""
    generator, rows = np.random.default_rng(0), []
    for seed in SEEDS:
        shared = generator.normal(5, 1, size=40)
        for number, text in enumerate(ARMS):
            arm = Arm.parse(text)
            losses = shared + number / 10 + generator.normal(0, 0.01, size=40)
            folder = tmp_path_factory.mktemp("trial")
            (folder / "evaluation.json").write_text(
                json.dumps({"window_losses": losses.tolist(), "window_groups": list(range(40))})
            )
            rows.append(
                {
                    "arm": arm.name,
                    "method": arm.method,
                    "seed": seed,
                    "parameter_count": 1,
                    "kv_bytes_per_token": 0,
                    "kv_bytes": 320,
                    "perplexity": float(np.exp(losses.mean())),
                    "bits_per_byte": 1.0,
                    "accuracy": 0.1,
                    "stream_perplexity": np.nan if arm.method == "pythia" else float(np.exp(losses.mean() + seed)),
                    "folder": folder,
                }
            )
    return pd.DataFrame(rows)


def test_every_arm_of_the_model_is_in_one_study_with_its_own_difference(records):
    studies = one_change_each(records, settings())
    assert list(studies["study"]) == [
        "token_context",
        *["context_dim and num_blocks"] * 2,
        "projection",
        "freeze_embedding",
    ]
    assert list(studies["change"]) == [
        "token_context previous → current",
        "context_dim 40 → 80, num_blocks 2 → 1",
        "context_dim 40 → 20, num_blocks 2 → 4",
        "projection oacd → random",
        "freeze_embedding true → false",
    ]
    assert studies["difference"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=0.01)
    assert (studies["difference_low"] < studies["difference"]).all()
    assert studies["stream_difference"].tolist() == pytest.approx(studies["difference"].tolist(), abs=1e-6)
    assert (studies["stream_difference_low"] < studies["stream_difference"]).all()


def test_arms_of_a_study_stand_together_wherever_they_were_named(records):
    mixed = pd.concat([records[records["arm"] == Arm.parse(text).name] for text in (*ARMS[:3], ARMS[5], *ARMS[3:5])])
    assert list(one_change_each(mixed, settings())["study"]) == [
        "token_context",
        "projection",
        *["context_dim and num_blocks"] * 2,
    ]


def test_records_without_stream_scores_have_no_such_difference(records):
    for frame in (records.drop(columns="stream_perplexity"), records.assign(stream_perplexity=np.nan)):
        studies = one_change_each(frame, settings())
        assert studies["stream_difference"].isna().all()
        assert studies["difference"].notna().all()


def test_a_base_arm_alone_has_no_study(records):
    assert one_change_each(records[records["arm"] == "cascade-oacd"], settings()).empty


def test_settings_that_were_only_written_out_change_nothing():
    written = Arm.parse("cascade@num_blocks=2,token_context=previous")
    assert changed_settings(Arm.parse("cascade"), written, settings()) == {}
    frozen = Arm.parse("dproj-lent-embedding-frozen-embedding@proj_dim=32")
    assert changed_settings(Arm.parse("dproj"), frozen, settings(proj_dim=48)) == {
        "proj_dim": (48, 32),
        "lent embedding": (False, True),
        "frozen embedding": (False, True),
    }


def test_a_base_arm_that_is_not_compared_is_refused():
    with pytest.raises(ValidationError, match=r"base_arm is 'dproj'.* one of arms"):
        settings(base_arm="dproj")

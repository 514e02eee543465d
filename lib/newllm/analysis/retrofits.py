"""What finished retrofits say together: every stage once, its seeds averaged, beside the model that it came from."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from newllm.analysis.differences import ArmLosses, compare_pairs, no_difference, read_losses
from newllm.analysis.trial_files import read_rows, read_window_losses
from newllm.config.retrofit import RetrofitParameters
from newllm.evaluation.recall_report import MEASURES
from newllm.experiments.scoring import HISTORY_FILE
from newllm.files import read_json
from newllm.retrofit.report import (
    ABSORBABLE,
    AVERAGED_HEAD,
    HEALED,
    LOSSES_FILE,
    NOT_COMPRESSED,
    ORIGINAL,
    RANDOM_PARTS,
    RESULT_FILE,
)
from newllm.wording import count, number, plus_minus

AVERAGED = ("perplexity", "bits_per_byte", "accuracy", *MEASURES, "energy_lost")
# What decides a stage and is said of it only where it differs, by the parameter: whether of its healing, and the words.
SAID_WHERE_DIFFERENT: dict[str, tuple[bool, Callable[[int], str]]] = {
    "calibration_windows": (False, lambda value: f"calibrated on {count(value, 'window')}"),
    "batch_size": (True, lambda value: f"healed in steps of {count(value, 'window')}"),
    "healing_evaluations": (True, lambda value: f"with {count(value, 'evaluation')} in healing"),
}
# Columns that are asked for where there are no rows.
EMPTY = (
    "what",
    "conversion",
    "stage",
    "kept",
    "healing_tokens",
    "bytes_per_token",
    "energy_lost",
    "energy_lost_by_layer",
    "folder",
)


def retrofit_stages(folders: Sequence[Path]) -> pd.DataFrame:
    """Gather the stages of finished retrofits of one model, each once.

    Parameters
    ----------
    folders
        Of retrofits, of one parent and on one text; others than those of the first are left out. None give no rows.

    Returns
    -------
    pandas.DataFrame
        One row a stage, the most bytes first: ``what`` became of it in words, ``conversion`` without those of its
        healing; ``stage``, ``control`` (whether it is one of any of the retrofits), ``method``,
        ``healing_tokens``, ``bytes_per_token``, ``kept``; means over seeds of `AVERAGED`; the difference from the
        original in nats a token with its interval over documents and seeds; ``seeds`` (0 where no seed decides it);
        ``energy_lost_by_layer`` and ``folder`` of the first.
    """
    if not folders:
        nothing = pd.DataFrame(columns=EMPTY)
        return nothing.assign(control=pd.Series(dtype=bool), **dict.fromkeys(no_difference(), pd.Series(dtype=float)))
    stages = _of_first_parent(_read_stages(folders))
    stages = stages.drop(columns=["parent", "data", "control"]).rename(columns={"also_control": "control"})
    losses: dict[Hashable, ArmLosses | None] = {}
    gathered: dict[Hashable, dict[Any, Any]] = {}
    for key, group in stages.groupby(["what", "healing_tokens", "bytes_per_token"], sort=False):
        first = group.iloc[0]
        decides = bool((group["healing_tokens"] > 0).any()) or first["stage"] == RANDOM_PARTS
        group = group if decides else group.iloc[:1]
        losses[key] = _losses(group, decides)
        gathered[key] = {**first.drop("seed").to_dict(), "seeds": len(group) if decides else 0}
        gathered[key] |= {name: group[name].astype(float).mean() for name in AVERAGED}
    original = next(key for key, row in gathered.items() if row["stage"] == ORIGINAL)
    table = _with_differences(gathered, losses, [(key, original) for key in gathered if key != original])
    return table.sort_values(
        ["bytes_per_token", "healing_tokens", "perplexity"], ascending=[False, True, True], ignore_index=True
    )


def _with_differences(
    rows: Mapping[Hashable, Mapping[Any, Any]],
    losses: Mapping[Hashable, ArmLosses | None],
    pairs: Sequence[tuple[Hashable, Hashable]],
) -> pd.DataFrame:
    """Put rows into a table, each with its difference from what it is paired with; what is in no pair has none."""
    found = dict(zip((key for key, _ in pairs), compare_pairs(losses, pairs), strict=True))
    return pd.DataFrame([{**row, **no_difference(), **found.get(key, {})} for key, row in rows.items()])


def stages_table(stages: pd.DataFrame) -> pd.DataFrame:
    """Write stages as texts, in the columns of every table of retrofits."""
    if stages.empty:
        return pd.DataFrame()
    table = pd.DataFrame(
        [
            {
                "what became of it": row["what"],
                "": "control" if row["control"] else "",
                "KV bytes a token (measured)": f"{row['bytes_per_token']:,.0f}",
                "tokens of healing": f"{row['healing_tokens']:,}" if row["healing_tokens"] else "",
                "perplexity": f"{row['perplexity']:,.1f}",
                "bits/byte": number(row["bits_per_byte"], "{:.3f}"),
                "accuracy": f"{row['accuracy']:.1%}",
                "nats/token lost": plus_minus(row, "difference", "{:+.3f}"),
                MEASURES["repeated_passage_gain"]: number(row["repeated_passage_gain"], "{:.3f}"),
                "energy lost": number(row["energy_lost"], "{:.1%}"),
                "seeds": str(row["seeds"] or ""),
            }
            for row in stages.to_dict("records")
        ]
    )
    unused = [name for name in ("tokens of healing", "energy lost", "seeds") if not (table[name] != "").any()]
    return table.drop(columns=unused)


def beside_training(folders: Sequence[Path], records: pd.DataFrame) -> pd.DataFrame:
    """Set models that were converted beside those that were trained from nothing to what they became.

    Parameters
    ----------
    folders
        Of retrofits of one parent, with or without healing; others than those of the first one's are left out.
    records
        Rows of `newllm.experiments.comparison.compare`, of trials on the text of the parent.

    Returns
    -------
    pandas.DataFrame
        For each model of which both are there, of the same method and bytes a token, rows of ``arm``,
        ``bytes_per_token``, ``what`` (became of the parent; none for the arm itself), ``tokens`` (of all training, of
        the parent too, mean over seeds), ``perplexity``, ``seeds``, and the difference from the arm with its interval,
        for which what was converted is of one seed of training, that of its parent.
    """
    columns = ["arm", "bytes_per_token", "what", "tokens", "perplexity", "seeds"]
    if not folders:
        return pd.DataFrame(columns=columns)
    retrofits = _of_first_parent(_read_stages(folders))
    retrofits = retrofits[~retrofits["control"] & retrofits["energy_lost"].notna()]
    found: dict[Hashable, dict[Any, Any]] = {}
    losses: dict[Hashable, ArmLosses | None] = {}
    pairs: list[tuple[Hashable, Hashable]] = []
    for arm, trials in records.groupby("arm", sort=False):
        first = trials.iloc[0]
        same = retrofits[
            (retrofits["method"] == first["method"])
            & (retrofits["bytes_per_token"] == first["kv_bytes_per_token"])
            & (retrofits["data"] == first["parameters"]["data"])
        ]
        if same.empty:
            continue
        tokens = float(np.mean([trained_tokens(Path(folder)) for folder in trials["folder"]]))
        about = {"arm": arm, "bytes_per_token": first["kv_bytes_per_token"]}
        found[arm] = about | {"tokens": tokens, "perplexity": trials["perplexity"].mean(), "seeds": len(trials)}
        losses[arm] = read_losses(trials)
        for (what, healing), group in same.groupby(["what", "healing_tokens"], sort=False):
            group, key = group if healing else group.iloc[:1], (arm, what, healing)
            row = {"what": what, "tokens": tokens + healing, "perplexity": group["perplexity"].mean()}
            found[key] = about | row | {"seeds": len(group)}
            # A seed of healing is not one of training: their mean is of the one seed that the parent was trained with.
            healed = _losses(group, has_seeds=True)
            mean = np.mean(list(healed.by_seed.values()), axis=0)
            losses[key] = ArmLosses({0: mean}, healed.groups)
            pairs.append((key, arm))
    if not found:
        return pd.DataFrame(columns=columns)
    order = ["bytes_per_token", "arm", "tokens", "what"]
    return _with_differences(found, losses, pairs).sort_values(
        order, ascending=[False, True, True, True], na_position="first"
    )


def trained_tokens(folder: Path) -> int:
    """Count the tokens that the main training of a trial read, by its history."""
    history = read_rows(folder / HISTORY_FILE, "main")
    return round(sum(row["tokens_per_second"] * row["seconds"] for row in history))


def said_before_and_after(folder: Path) -> pd.DataFrame:
    """Read how the original and the model of a retrofit continue the prompts: what it became, bytes, before, after."""
    found = read_json(folder / RESULT_FILE)
    said = pd.DataFrame(found["continuations"])
    *_, last = (row for row in found["report"] if not row["control"])
    said.insert(0, "what became of it", _words(HEALED, found["described"]["parameters"]))
    said.insert(1, "KV bytes a token (measured)", f"{last['bytes_per_token']:,.0f}")
    return said


def _read_stages(folders: Sequence[Path]) -> pd.DataFrame:
    """Read the stages of retrofits, those of one seed once.

    ``parent`` and ``data`` say of which weights and text, ``also_control`` whether the same was a control anywhere.
    """
    rows = []
    for folder in folders:
        found = read_json(folder / RESULT_FILE)
        about = {"parent": found["described"]["model"], "data": found["described"]["data"]}
        rows += [_row(folder, found, row) | about for row in found["report"]]
    stages = _with_differing_words(pd.DataFrame(rows))
    alike = ["parent", "data", "what", "bytes_per_token"]
    stages["also_control"] = stages.groupby(alike)["control"].transform("any")
    # Averaged heads may be a retrofit and a control of others: the retrofit, which knows its method, is kept.
    same = ["parent", "data", "what", "healing_tokens", "bytes_per_token", "seed"]
    return stages.sort_values("control", kind="stable").drop_duplicates(same).sort_index(ignore_index=True)


def _of_first_parent(stages: pd.DataFrame) -> pd.DataFrame:
    """Keep the stages of the weights, and on the text, of the first one."""
    return stages[(stages["parent"] == stages["parent"].iloc[0]) & (stages["data"] == stages["data"].iloc[0])]


def _with_differing_words(stages: pd.DataFrame) -> pd.DataFrame:
    """Say of stages that have the same words so far in which deciding parameters they differ."""
    same = ["parent", "data", "what", "healing_tokens", "bytes_per_token"]
    keys = [stages[name] for name in same]
    for name, (is_of_healing, words) in SAID_WHERE_DIFFERENT.items():
        differs = stages.groupby(keys)[name].transform(lambda values: values.nunique(dropna=False)) > 1
        said = ["" if pd.isna(value) else f", {words(int(value))}" for value in stages[name]]
        for column in ("what",) if is_of_healing else ("what", "conversion"):
            stages[column] += pd.Series(said, index=stages.index).where(differs, "")
    return stages.drop(columns=list(SAID_WHERE_DIFFERENT))


def _deciding(stage: str, healing_tokens: int, parameters: Mapping[str, Any]) -> dict[str, int | None]:
    """Return those of `SAID_WHERE_DIFFERENT` that decide a stage, None for those that do not reach it."""
    names = {"calibration_windows"} if _is_calibrated(stage, parameters) else set()
    names |= {"batch_size", "healing_evaluations"} if healing_tokens else set()
    return {name: parameters[name] if name in names else None for name in SAID_WHERE_DIFFERENT}


def _is_calibrated(stage: str, parameters: Mapping[str, Any]) -> bool:
    """Tell whether a stage was made of what its inputs look like on the calibration text."""
    if stage in (ORIGINAL, NOT_COMPRESSED) or parameters["method"] == "cla":
        return False
    # The shapes of random parts are those of latents, whose widths alone may follow from the text.
    by_energy = parameters["method"] == "mla" and parameters["ranks"] == "energy"
    if stage == RANDOM_PARTS:
        return by_energy
    if AVERAGED_HEAD in stage:
        return True
    if parameters["method"] == "mqa":
        return bool(parameters["averaging"] == "aligned")
    chosen = parameters["rotary_pairs"] is not None and parameters["rotary_choice"] == "norm"
    factorised = stage != ABSORBABLE and (by_energy or parameters["factorisation"] != "plain")
    return factorised or chosen or parameters["rotary_heads"] == "shared"


def _row(folder: Path, found: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    described = found["described"]
    parameters = described["parameters"]
    conversion = what = _words(row["stage"], parameters)
    if row["healing_tokens"] and (unusual := _healing_words(parameters)):
        what += f", {unusual}"
    return row | {
        "what": what,
        "conversion": conversion,
        "method": parameters["method"],
        "seed": described["seed"],
        "folder": folder,
        **_deciding(row["stage"], row["healing_tokens"], parameters),
    }


def _words(stage: str, parameters: dict[str, Any]) -> str:
    """Say in words what became of a model."""
    if stage == RANDOM_PARTS:
        return f"{RANDOM_PARTS} ({parameters['method']})"
    if stage in (ORIGINAL, NOT_COMPRESSED) or AVERAGED_HEAD in stage:
        return stage
    if parameters["method"] == "mqa":
        # Turned to each other, heads are averaged as those of the controls are, and have their name.
        averaged = count(parameters["num_key_value_heads"], AVERAGED_HEAD)
        return averaged if parameters["averaging"] == "aligned" else f"{averaged}, {parameters['averaging']}"
    if parameters["method"] == "cla":
        return f"{parameters['layers_sharing']} layers averaged"
    # Where only the position encoding was changed, nothing is factorised yet.
    is_whole = stage == ABSORBABLE
    words = [stage if is_whole else f"latent, {parameters['factorisation']}"]
    if parameters["ranks"] == "energy" and not is_whole:
        words.append("ranks by energy")
    if parameters["rotary_pairs"] is not None:
        words.append(f"{parameters['rotary_pairs']} rotary pairs by {parameters['rotary_choice']}")
    if parameters["rotary_heads"] == "shared":
        words.append("one rotary key")
    return ", ".join(words)


def _healing_words(parameters: dict[str, Any]) -> str:
    """Say how it was healed, as far as that is not the text on what was changed."""
    words = []
    if parameters["healing_loss"] == "kl":
        words.append("healed by the original's distribution")
    if parameters["healing_parts"] == "all":
        words.append("all weights healed")
    if parameters["healing_lr"] != RetrofitParameters.model_fields["healing_lr"].default:
        words.append(f"at a rate of {parameters['healing_lr']:g}")
    return ", ".join(words)


def _losses(group: pd.DataFrame, has_seeds: bool) -> ArmLosses:
    """Read the losses of a stage, by seed."""
    by_seed, groups = {}, np.zeros(0, np.int64)
    for row in group.to_dict("records"):
        by_seed[row["seed"]], groups = read_window_losses(row["folder"] / LOSSES_FILE, row["stage"])
    return ArmLosses(by_seed, groups, has_seeds=has_seeds)

"""What a retrofit loses: against the bytes that are left, and layer by layer."""

import pandas as pd
import plotly.graph_objects as go

from newllm.figures.lines import lines
from newllm.figures.style import colour, finish, interval_bars, symbol


def lost_against_bytes(stages: pd.DataFrame) -> go.Figure:
    """Draw what each stage loses without healing against its bytes a token; controls are open.

    Attention drawn at random is left out: all the others would be one line beside it.

    Parameters
    ----------
    stages
        As `newllm.analysis.retrofits.retrofit_stages` gives them.
    """
    rows = stages[_is_shown(stages) & (stages["healing_tokens"] == 0)]
    figure = go.Figure()
    for index, (what, group) in enumerate(rows.groupby("what", sort=False)):
        is_control = bool(group["control"].iloc[0])
        figure.add_scatter(
            x=group["bytes_per_token"],
            y=group["difference"],
            name=f"{what} (control)" if is_control else str(what),
            mode="markers",
            marker={"color": colour(index), "size": 11, "symbol": symbol(index) + "-open" * is_control},
            error_y=interval_bars(group, "difference"),
            hovertemplate="%{x:,.0f} bytes, %{y:+.3f} nats",
        )
    return finish(figure, "What is lost, beside the original", "KV bytes a token", "nats a token", log_x=True)


def lost_against_healing(stages: pd.DataFrame) -> go.Figure:
    """Draw what is lost beside the original against the tokens of healing, a line for each way; controls are dotted.

    Attention drawn at random is left out: all the others would be one line beside it.

    Parameters
    ----------
    stages
        As `newllm.analysis.retrofits.retrofit_stages` gives them; ways that were never healed are left out.
    """
    stages = stages[_is_shown(stages)]
    figure = go.Figure()
    for _, healed in stages[stages["healing_tokens"] > 0].groupby(["what", "bytes_per_token"], sort=False):
        first = healed.iloc[0]
        begins = (stages["conversion"] == first["conversion"]) & (stages["bytes_per_token"] == first["bytes_per_token"])
        rows = pd.concat([stages[begins & (stages["healing_tokens"] == 0)], healed.sort_values("healing_tokens")])
        figure.add_scatter(
            x=[_budget(tokens) for tokens in rows["healing_tokens"]],
            y=rows["difference"],
            name=f"{first['what']}, {first['bytes_per_token']:,.0f} bytes" + " (control)" * bool(first["control"]),
            mode="lines+markers",
            line={"color": colour(len(figure.data)), "dash": "dot" if first["control"] else "solid"},
            error_y=interval_bars(rows, "difference"),
        )
    finish(figure, "What is lost, by the training after it", "tokens of healing", "nats a token")
    budgets = [_budget(tokens) for tokens in sorted(set(stages["healing_tokens"]))]
    return figure.update_xaxes(type="category", categoryorder="array", categoryarray=budgets)


def _is_shown(stages: pd.DataFrame) -> "pd.Series[bool]":
    return stages["difference"].notna() & ~stages["stage"].str.contains("random")


def _budget(tokens: int) -> str:
    return f"{tokens:,}" if tokens else "none"


def energy_lost(stages: pd.DataFrame) -> go.Figure:
    """Draw the share of the energy of keys and values that each layer has lost.

    Parameters
    ----------
    stages
        As `newllm.analysis.retrofits.retrofit_stages` gives them; those without energies are left out.
    """
    known = stages[stages["energy_lost_by_layer"].notna()]
    frames = [
        pd.DataFrame(
            {
                "layer": range(len(row["energy_lost_by_layer"])),
                "lost": [100 * share for share in row["energy_lost_by_layer"]],
                "stage": f"{row['conversion']}, {row['bytes_per_token']:,.0f} bytes",
            }
        )
        for row in known.drop_duplicates(["conversion", "bytes_per_token"]).to_dict("records")
    ]
    figure = lines(pd.concat(frames), "layer", "lost", "stage") if frames else go.Figure()
    figure.update_xaxes(dtick=1)
    return finish(figure, "Energy of keys and values that is lost", "layer", "percent")

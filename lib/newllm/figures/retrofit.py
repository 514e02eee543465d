"""What a retrofit loses: against the bytes that are left, and layer by layer."""

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from newllm.figures.style import COLOURS, SYMBOLS, colour, finish, interval_bars

# What the words of a way say where all heads of a layer share one rotary key.
SHARED_KEY = ", one rotary key"

# Nats a token: less is at the foot of the picture.
LEAST_LOSS = 0.0005
# Of the places of two points of the same bytes.
APART = 1.035
PANELS_IN_A_ROW = 2


def lost_against_bytes(stages: pd.DataFrame) -> go.Figure:
    """Draw what each stage loses without healing against its bytes a token; controls are open.

    Attention drawn at random is left out: all the others would be one line beside it. Points of the same bytes stand
    side by side, so that none covers another.

    Parameters
    ----------
    stages
        As `newllm.analysis.retrofits.retrofit_stages` gives them.
    """
    rows = stages[_is_shown(stages) & (stages["healing_tokens"] == 0)]
    rows = rows.sort_values(["bytes_per_token", "control"], ascending=False, kind="stable")
    sizes = rows.groupby("bytes_per_token")
    # Around the place of their bytes, in the order of the rows: controls on the left.
    beside = sizes.cumcount() - (sizes["what"].transform("size") - 1) / 2
    ends = {name: rows[name].clip(lower=LEAST_LOSS) for name in ("difference", "difference_low", "difference_high")}
    rows = rows.assign(x=rows["bytes_per_token"] * APART**beside, lost=rows["difference"], **ends)
    figure = go.Figure()
    looks = _looks(rows["what"])
    for what, group in rows.groupby("what", sort=False):
        is_control = bool(group["control"].iloc[0])
        figure.add_scatter(
            x=group["x"],
            y=group["difference"],
            name=f"{what} (control)" if is_control else str(what),
            mode="markers",
            marker={
                "color": looks[str(what)][0],
                "size": 9,
                "symbol": looks[str(what)][1] + "-open" * is_control,
                "line_width": 2 if is_control else 0,
            },
            error_y=interval_bars(group, "difference"),
            customdata=group[["bytes_per_token", "lost"]],
            hovertemplate="%{customdata[0]:,.0f} bytes, %{customdata[1]:+.3f} nats",
        )
    finish(figure, "What is lost, beside the original", "KV bytes a token", "nats a token", log_x=True, log_y=True)
    marks = sorted(set(rows["bytes_per_token"]))
    figure.update_xaxes(tickvals=marks, ticktext=[f"{size:,.0f}" for size in marks], tickangle=-90)
    losses = [LEAST_LOSS, 0.001, 0.01, 0.1, 1]
    named = [f"{LEAST_LOSS:g} or less", *(f"{loss:g}" for loss in losses[1:])]
    return figure.update_yaxes(tickvals=losses, ticktext=named)


def _looks(whats: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Give a way its colour, with and without a rotary key of each head, and each of the two its symbol."""
    names = list(dict.fromkeys(whats))
    places = {way: index for index, way in enumerate(dict.fromkeys(name.replace(SHARED_KEY, "") for name in names))}
    looks = {}
    for name in names:
        place, shared = places[name.replace(SHARED_KEY, "")], SHARED_KEY in name
        looks[name] = colour(place), SYMBOLS[2 * shared + place // len(COLOURS) % 2]
    return looks


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
    """Draw the share of the energy of keys and values that each layer has lost, a panel for each number of bytes.

    Parameters
    ----------
    stages
        As `newllm.analysis.retrofits.retrofit_stages` gives them; those without energies are left out.
    """
    known = stages[stages["energy_lost_by_layer"].notna()].drop_duplicates(["conversion", "bytes_per_token"])
    sizes = sorted(set(known["bytes_per_token"]), reverse=True)
    columns = min(PANELS_IN_A_ROW, len(sizes)) or 1
    figure = make_subplots(
        rows=-(-len(sizes) // columns) or 1,
        cols=columns,
        shared_yaxes="all",
        vertical_spacing=0.22,
        subplot_titles=[f"{size:,.0f} bytes a token" for size in sizes],
    )
    looks = _looks(known["conversion"])
    named = set()
    for row in known.to_dict("records"):
        place = sizes.index(row["bytes_per_token"])
        shade, symbol = looks[row["conversion"]]
        figure.add_scatter(
            x=list(range(len(row["energy_lost_by_layer"]))),
            y=[100 * share for share in row["energy_lost_by_layer"]],
            name=row["conversion"],
            legendgroup=row["conversion"],
            showlegend=row["conversion"] not in named,
            mode="lines+markers",
            line={"color": shade, "dash": "dot" if SHARED_KEY in row["conversion"] else "solid"},
            marker_symbol=symbol,
            row=place // columns + 1,
            col=place % columns + 1,
        )
        named.add(row["conversion"])
    finish(figure, "Energy of keys and values that is lost", "", "")
    figure.update_layout(height=figure.layout.height + 190 * (len(sizes) > columns))
    figure.update_xaxes(dtick=1, title="layer")
    return figure.update_yaxes(title="percent", col=1)

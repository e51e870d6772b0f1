"""A picture of utilization in three forms: a plotly figure as JSON, HTML with an inline SVG, and text.

The figure is written as plotly's own JSON, so that nothing has to be imported for it. All text is
escaped: the name of a node is untrusted.
"""

from __future__ import annotations

import html as markup
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nexa_sdk import display

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nexa_sdk.monitoring.picture import Picture, Row

__all__ = ["COLOURS", "MOST_LINES", "SCALE", "figure", "heat_map", "html", "line", "text", "whole_numbers"]

MOST_LINES = 8  # GPUs that get a line each; more become a heat map
SHOWN_ROWS = 16  # of a table
GREY = "rgba(127,127,127,1)"  # reads on light and on dark
SCALE = [[0, "#b0413e"], [0.02, "#b0413e"], [0.0201, "#f2e8cf"], [1, "#1b6ca8"]]  # what does nothing stands out


def figure(picture: Picture, title: str, lines: Sequence[str] = ()) -> dict[str, Any]:
    """Write the figure: what GPUs and cores do, and what can be said of it."""
    times = [datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S") for at in picture.time]
    is_map = len(picture.gpus) > MOST_LINES
    traces: list[dict[str, Any]] = []
    if is_map:
        traces.append(_heat_map(picture.gpus, times, "y"))
    else:
        for number, row in enumerate(picture.gpus):
            traces += _line(row, times, "y", number, with_band=len(picture.gpus) == 1)
    axis = "y2" if picture.gpus else "y"
    if len(picture.nodes) > MOST_LINES:
        traces.append(_heat_map(picture.nodes, times, axis, is_shown=not is_map))
    else:
        for number, row in enumerate(picture.nodes):
            traces += _line(row, times, axis, number, name=f"{row.label} cores", dash="dot" if picture.gpus else "solid")
    words = [line for line in lines if line]
    tall = min(900, 14 * len(picture.gpus)) if is_map else 0
    percent = {"range": [0, 101], "ticksuffix": " %", "gridcolor": "rgba(127,127,127,.25)", "zeroline": False}
    rows_axis = {"autorange": "reversed", "showgrid": False, "type": "category", "automargin": True}
    layout: dict[str, Any] = {
        "title": {"text": markup.escape(title), "font": {"size": 14}, "y": 0.98, "yanchor": "top"},
        "height": max(360, tall + 180) + 16 * len(words),
        "margin": {"l": 60, "r": 20, "t": 64, "b": 40 + 16 * len(words)},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": GREY},
        "hovermode": "closest" if is_map else "x unified",
        "uirevision": "nexa",  # a zoom survives an update
        "xaxis": {"type": "date", "anchor": axis, "gridcolor": "rgba(127,127,127,.25)"},
        "annotations": [
            {
                "text": "<br>".join(markup.escape(word) for word in words),
                "xref": "paper",
                "yref": "paper",
                "x": 0,
                "y": 0,
                "yshift": -28,
                "xanchor": "left",
                "yanchor": "top",
                "align": "left",
                "showarrow": False,
            }
        ]
        if words
        else [],
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }
    of_nodes = rows_axis if len(picture.nodes) > MOST_LINES else {**percent, "title": {"text": "cores"}}
    if picture.gpus:
        layout["yaxis"] = {**(rows_axis if is_map else {**percent, "title": {"text": "GPU at work"}}), "domain": [0.32, 1]}
        layout["yaxis2"] = {**of_nodes, "domain": [0, 0.24], "anchor": "x"}
    else:
        layout["yaxis"] = of_nodes
    return {"data": traces, "layout": layout}


def whole_numbers(values: NDArray[np.float32]) -> list[list[int | None]]:
    """Round; what is not known becomes None."""
    import numpy as np

    known = ~np.isnan(values)
    rounded = np.rint(np.where(known, values, 0)).astype(np.int16).astype(object)
    rounded[~known] = None
    return rounded.tolist()  # type: ignore[no-any-return]


def heat_map(rows: Sequence[Row], axis: str, *, is_shown: bool = True) -> dict[str, Any]:
    """Say how a heat map of rows looks; its numbers come apart."""
    return {
        "type": "heatmap",
        "y": [markup.escape(row.label) for row in rows],
        "yaxis": axis,
        "zmin": 0,
        "zmax": 100,
        "colorscale": SCALE,
        "showscale": is_shown,
        "colorbar": {"ticksuffix": " %", "thickness": 10},
        "hovertemplate": "%{y}<br>%{x}<br>%{z} %<extra></extra>",
        "hoverongaps": False,
    }


def _heat_map(rows: Sequence[Row], times: list[str], axis: str, *, is_shown: bool = True) -> dict[str, Any]:
    import numpy as np

    return {**heat_map(rows, axis, is_shown=is_shown), "x": times, "z": whole_numbers(np.array([row.curve.mean for row in rows]))}


COLOURS = ("#1b6ca8", "#c8553d", "#2a9d8f", "#8d6a9f", "#b58900", "#588157", "#d16ba5", "#5c677d")


def line(kind: str, name: str, axis: str, number: int, *, dash: str = "solid") -> dict[str, Any]:
    """Say how a line looks: the means of a row, or the least or the most around them; its numbers come apart."""
    label = markup.escape(name)
    common = {"type": "scatter", "mode": "lines", "yaxis": axis, "legendgroup": label, "connectgaps": False}
    if kind != "mean":
        fill = {"fill": "tonexty", "fillcolor": "rgba(27,108,168,.2)"} if kind == "most" else {}
        return {**common, "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, **fill}
    return {**common, "name": label, "line": {"color": COLOURS[number % len(COLOURS)], "width": 1.5, "dash": dash}}


def _line(
    row: Row, times: list[str], axis: str, number: int, *, name: str | None = None, dash: str = "solid", with_band: bool = False
) -> list[dict[str, Any]]:
    """Draw a curve: its means; and of one alone the least and the most around it."""
    curves = {"least": row.curve.least, "most": row.curve.most} if with_band else {}
    curves["mean"] = row.curve.mean
    return [
        {**line(kind, name or row.label, axis, number, dash=dash), "x": times, "y": _numbers(values)} for kind, values in curves.items()
    ]


def _numbers(values: NDArray[np.float32]) -> list[int | None]:
    import numpy as np

    known = ~np.isnan(values)
    if known.all():
        return np.rint(values).astype(int).tolist()  # type: ignore[no-any-return]
    return [round(value) if is_known else None for value, is_known in zip(values.tolist(), known.tolist(), strict=True)]


# ---- without plotly ------------------------------------------------------------------------------

_WIDTH = 300


def html(picture: Picture, title: str, lines: Sequence[str] = ()) -> str:
    """Draw the picture as a table, each row's curve as a strip of inline SVG; a static viewer shows it, too."""
    columns, rows, more = _table(picture, with_strips=True)
    below = "".join(f"<div>{markup.escape(line)}</div>" for line in [more, *lines] if line)
    span = f" · {_clock(picture.time[0])} to {_clock(picture.last)}" if len(picture.time) else ""
    return f"<div><div><b>{markup.escape(title)}</b>{span}</div>{display.table(columns, rows)}{below}</div>"


def text(picture: Picture, title: str, lines: Sequence[str] = ()) -> str:
    """Write the picture's last state as text."""
    columns, rows, more = _table(picture)
    told = [title, *(display.text_table(columns, rows, more) if rows else ["no samples yet"]), *lines]
    return "\n".join(line for line in told if line)


def _table(picture: Picture, *, with_strips: bool = False) -> tuple[list[str], list[list[Any]], str]:
    """Return the rows worth seeing: of many GPUs those that work least."""
    gpus = picture.gpus
    if len(gpus) > SHOWN_ROWS:
        least = sorted(range(len(gpus)), key=lambda place: gpus[place].mean)[:SHOWN_ROWS]
        gpus = [gpus[place] for place in sorted(least)]
    nodes = picture.nodes[: max(4, SHOWN_ROWS - len(gpus))]
    rows = []
    for row in [*gpus, *nodes]:
        kind = "memory" if row.is_gpu else "ram"
        used, total = row.last.get(kind), row.last.get(f"{kind}_total")
        memory = "" if used is None else f"{used / 1024:.1f} GiB" if total is None else f"{used / 1024:.1f} of {total / 1024:.0f} GiB"
        cells: list[Any] = [
            f"{'GPU' if row.is_gpu else 'cores'} {row.label}",
            _percent(row.last.get("work")),
            _percent(row.mean),
            memory,
            f"{row.last['power']:.0f} W" if "power" in row.last else "",
            f"{row.last['temperature']:.0f} °C" if "temperature" in row.last else "",
        ]
        rows.append([*cells, display.Markup(_strip(row))] if with_strips else cells)
    hidden = len(picture.gpus) - len(gpus), len(picture.nodes) - len(nodes)
    more = " and ".join(f"{count} more {what}" for count, what in zip(hidden, ("GPUs, which work more", "nodes"), strict=True) if count > 0)
    columns = ["", "now", "mean", "memory", "power", "heat", *(["history"] if with_strips else [])]
    return columns, rows, f"… and {more}" if more else ""


def _percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.0f} %"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _strip(row: Row) -> str:
    """Draw a curve in 300 × 20, unknown spans left open."""
    points: list[str] = []
    is_open = False
    count = max(2, len(row.curve.mean))
    # neighbours of one height need no point of their own
    heights = _numbers(row.curve.mean)
    for place, height in enumerate(heights):
        if height is None:
            is_open = False
            continue
        is_corner = not is_open or place + 1 == len(heights) or heights[place - 1] != height or heights[place + 1] != height
        if is_corner:
            points.append(f"{'L' if is_open else 'M'}{_WIDTH * place / (count - 1):.0f} {20 - height / 5:.1f}")
        is_open = True
    label = markup.escape(f"{row.label}: {_percent(row.mean)} on average", quote=True)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} 20" width="{_WIDTH}" height="20">'
        f'<path d="{"".join(points)}" fill="none" stroke="{GREY}" stroke-width="1"/></svg>'
    )

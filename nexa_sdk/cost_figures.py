"""Drawings of a cost, by plotly; it is imported when one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import InvalidInput

if TYPE_CHECKING:
    from nexa_sdk.cost_report import CostReport

__all__ = ["bars", "tree"]


def bars(report: CostReport, by: str) -> Any:
    """Draw a bar for each day, run, …; what has no price is drawn in GPU-hours, or CPU-hours."""
    graph = _plotly()
    unit, sums = _sums(report, (by,))
    label = {"gpu_type": "GPU type"}.get(by, by)
    figure = graph.Figure(graph.Bar(x=[key[0] for key in sums], y=[float(amount) for amount in sums.values()]))
    figure.update_layout(title=report.title, xaxis_title=label, yaxis_title=unit, xaxis_type="category", template="plotly_white")
    return figure


def tree(report: CostReport, by: str) -> Any:
    """Draw areas: clusters, in them users, in them runs, days, or whatever is asked."""
    graph = _plotly()
    levels = ("cluster", "user", by)
    unit, sums = _sums(report, levels)
    totals: dict[tuple[str, ...], float] = {}
    for key, amount in sums.items():
        for depth in range(1, len(key) + 1):
            totals[key[:depth]] = totals.get(key[:depth], 0.0) + float(amount)
    figure = graph.Figure(
        graph.Treemap(
            ids=["\x1f".join(key) for key in totals],
            labels=[key[-1] or f"(no {levels[len(key) - 1]})" for key in totals],
            parents=["\x1f".join(key[:-1]) for key in totals],
            values=list(totals.values()),
            branchvalues="total",
            texttemplate="%{label}<br>%{value:,.2f}",
        )
    )
    figure.update_layout(title=f"{report.title}, {unit}")
    return figure


def _sums(report: CostReport, names: tuple[str, ...]) -> tuple[str, dict[tuple[str, ...], Any]]:
    """Add up what is drawn, and say in which unit."""
    currencies = list(report.totals)
    if len(currencies) > 1:
        raise InvalidInput(f"{' and '.join(currencies)} can't be drawn in one picture; in_currency(…) makes one of them")
    table = report.by(*names)
    if not currencies or report.unknown:  # some has no price: what is drawn is what all has
        column = "gpu_hours" if report.gpu_hours else "cpu_hours"
        unit = "GPU-hours" if column == "gpu_hours" else "CPU-hours"
        if report.calls and not report.attempts:
            column = unit = "tokens"
            table[column] = table["input_tokens"] + table["output_tokens"]
    else:
        column, unit = "cost", currencies[0]
    sums: dict[tuple[str, ...], Any] = {}
    for key, amount in zip(table.index, table[column], strict=True):
        whole = tuple(map(str, key)) if isinstance(key, tuple) else (str(key),)
        sums[whole] = sums.get(whole, 0) + amount
    return unit, sums


def _plotly() -> Any:
    try:
        import plotly.graph_objects as graph
    except ImportError:
        raise InvalidInput("the 'plotly' package is not installed; install it by: pip install 'nexa_sdk[plot]'") from None
    return graph

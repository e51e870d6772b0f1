"""What a run's programs reported: a table, and a plot of what one chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets

from nexa_sdk.notebook import front_end
from nexa_sdk.notebook.view import close_widgets
from nexa_sdk.notebook.widgets.figure import figure_widget
from nexa_sdk.notebook.widgets.table import table_widget

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.notebook.view import View
    from nexa_sdk.run import Run

__all__ = ["results_widget"]

_STEPS = ("step", "epoch", "iteration", "global_step", "iter")


def results_widget(view: View, run: Run) -> ipywidgets.Widget:
    """Return the table of :meth:`nexa_sdk.Run.results`, with a plot where the front end has them."""
    results = run.results()
    table = table_widget(results)
    reported = [name for name in results.columns if name not in (*run.sweep.parameters, "state", "exit_code", "elapsed", "node")]
    numbers = [name for name in reported if results[name].dtype.kind in "if" and results[name].notna().any()]
    if not numbers:
        words = "The programs reported no numbers; they may append JSON lines to the file $NEXA_RESULTS." if not reported else ""
        return ipywidgets.VBox([table, ipywidgets.HTML(words)])
    if front_end.widgets() != "all":
        return table
    metrics = [name for name in numbers if name not in _STEPS] or numbers
    metric = ipywidgets.Dropdown(options=metrics, value=metrics[-1], description="Metric")
    kinds = ["parallel coordinates", "against a parameter", "by step"]
    kind = ipywidgets.Dropdown(options=kinds, description="Plot")
    parameters = list(run.sweep.parameters)
    against = ipywidgets.Dropdown(options=parameters, description="Parameter") if parameters else None
    plot = ipywidgets.Button(description="Draw", icon="line-chart", layout={"width": "auto"})
    place = ipywidgets.VBox([])

    def draw(_: Any) -> None:
        chosen = kind.value, metric.value, against.value if against is not None else None

        def make() -> Any:
            import plotly.graph_objects as go

            return figure_widget(go.Figure(figure_of(run, results, *chosen)))

        def put(widget: Any) -> None:
            before, place.children = place.children, [widget]
            for figure in before:
                close_widgets(figure)

        view.work("plot", make, put, words="drawing …", off=[plot])

    plot.on_click(view.guard(draw))
    choices = ipywidgets.HBox([kind, metric, *([against] if against is not None else []), plot], layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([table, choices, place])


def figure_of(run: Run, results: pd.DataFrame, kind: str, metric: str, parameter: str | None) -> dict[str, Any]:
    """Write a plot of results as plotly's own JSON.

    Parameters
    ----------
    kind : {'parallel coordinates', 'against a parameter', 'by step'}
    metric : str
        A reported number.
    parameter : str or None
        What it is drawn against.
    """
    layout: dict[str, Any] = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "rgba(127,127,127,1)"},
        "height": 380,
        "margin": {"l": 60, "r": 30, "t": 50, "b": 50},
    }
    if kind == "parallel coordinates":
        known = results[results[metric].notna()]
        axes = [_axis(known, name) for name in run.sweep.parameters if len(set(map(str, known[name]))) > 1]
        axes.append({"label": metric, "values": known[metric].astype(float).tolist()})
        line = {"color": known[metric].astype(float).tolist(), "colorscale": "Viridis", "showscale": True}
        return {"data": [{"type": "parcoords", "dimensions": axes, "line": line}], "layout": layout}
    if kind == "by step":
        lines = run.results(every_line=True)
        step = next((name for name in _STEPS if name in lines.columns), None)
        traces = []
        for trial, of_trial in lines[lines[metric].notna()].groupby(level=0):
            x = of_trial[step].tolist() if step else list(range(len(of_trial)))
            traces.append(
                {"type": "scatter", "mode": "lines+markers", "x": x, "y": of_trial[metric].astype(float).tolist(), "name": f"trial {trial}"}
            )
        layout |= {"xaxis": {"title": {"text": step or "line"}}, "yaxis": {"title": {"text": metric}}}
        return {"data": traces, "layout": layout}
    known = results[results[metric].notna()]
    values = [str(value) for value in known[parameter]] if known[parameter].dtype.kind not in "if" else known[parameter].tolist()
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": values,
        "y": known[metric].astype(float).tolist(),
        "text": [f"trial {trial}" for trial in known.index],
        "marker": {"size": 9},
    }
    layout |= {"xaxis": {"title": {"text": str(parameter)}}, "yaxis": {"title": {"text": metric}}}
    return {"data": [trace], "layout": layout}


def _axis(known: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return an axis of parallel coordinates: numbers as they are, anything else by its place among the values."""
    if known[name].dtype.kind in "if":
        return {"label": name, "values": known[name].tolist()}
    words = [str(value) for value in known[name]]
    places = sorted(set(words))
    return {"label": name, "values": [places.index(word) for word in words], "tickvals": list(range(len(places))), "ticktext": places}

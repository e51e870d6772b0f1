"""What was used and what it cost: added up as one chooses, as a table and drawn."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from nexa_sdk import display
from nexa_sdk.cost_report import CostReport
from nexa_sdk.notebook import front_end
from nexa_sdk.notebook.view import View

if TYPE_CHECKING:
    import ipywidgets

    from nexa_sdk.cluster import Cluster
    from nexa_sdk.run import Run

__all__ = ["CostView"]

SPANS = {"1 day": "today and yesterday", "7 days": "7 days", "30 days": "30 days", "365 days": "a year"}
GROUPS = ("run", "day", "user", "account", "gpu_type", "partition", "state", "trial", "kind", "provider", "model", "tag")
SHOWN = 30


class CostView(View):
    """An explorer of a bill.

    Parameters
    ----------
    what : CostReport, Run or Cluster
        A cluster is asked for a span of time, which can be chosen.

    Attributes
    ----------
    report : CostReport or None
        What is shown.
    """

    def __init__(self, what: CostReport | Run | Cluster, *, since: str = "7 days") -> None:
        super().__init__()
        self._what = what
        self.report: CostReport | None = what if isinstance(what, CostReport) else None
        self._since = since
        self._group = "run"

    @property
    def title(self) -> str:
        """What it is the cost of."""
        return self.report.title if self.report is not None else "cost"

    @property
    def _has_span(self) -> bool:
        return hasattr(self._what, "partitions")

    def look(self) -> bool:
        """Ask what was used."""
        if not isinstance(self._what, CostReport):
            self.report = self._ask(self._since)
        return True

    def _ask(self, since: str) -> CostReport:
        return self._what.cost(since, attempts=False) if self._has_span else self._what.cost()  # type: ignore[union-attr, call-arg]

    def python(self) -> str:
        """Return the line that does the same."""
        asked = f"cluster.cost({self._since!r})" if self._has_span else "report" if isinstance(self._what, CostReport) else "run.cost()"
        return f"{asked}.by({self._group!r})"

    # ---- showing -------------------------------------------------------------------------------

    def build(self) -> ipywidgets.Widget:
        """Make the choices, the table, and places for the figures."""
        import ipywidgets as w

        from nexa_sdk.notebook.widgets.sections import Sections

        spans = list(SPANS) if self._since in SPANS else [self._since, *SPANS]
        self._span = w.Dropdown(options=spans, value=self._since, description="Since")
        self._by = w.Dropdown(options=self._groups(), value=self._group, description="By")
        renew = w.Button(description="Renew", icon="refresh", layout={"width": "auto"})
        self._table, self._line = w.HTML(), w.HTML()
        self._span.observe(self.guard(lambda _: self._renew()), "value")
        self._by.observe(self.guard(lambda change: self._regroup(change["new"])), "value")
        renew.on_click(self.guard(lambda _: self._renew()))
        parts: dict[str, Any] = {"Table": self._table}
        if front_end.widgets() == "all":
            parts |= {"Bars": lambda: self._drawn(treemap=False), "Areas": lambda: self._drawn(treemap=True)}
        self._sections = Sections(self, parts)
        self._span.layout.display = "" if self._has_span else "none"
        choices = [self._span, self._by, *([] if isinstance(self._what, CostReport) else [renew])]
        return w.VBox([w.HBox(choices, layout={"flex_flow": "row wrap"}), self._sections, self._line])

    def _groups(self) -> list[str]:
        return [name for name in GROUPS if self._can(name)]

    def _can(self, name: str) -> bool:
        from nexa_sdk.errors import InvalidInput

        if self.report is None:
            return name == "run"
        try:
            self.report.by(name)
        except InvalidInput:
            return False
        return True

    def draw(self) -> None:
        """Show the sums."""
        self._table.value = self.html()
        self._line.value = f"<code>{html.escape(self.python())}</code>"

    def _regroup(self, name: str) -> None:
        self._group = name
        self.draw()
        for part in ("Bars", "Areas"):
            if part in self._sections.parts:
                self._sections.renew(part)

    def _renew(self) -> None:
        since = self._span.value

        def put(report: CostReport) -> None:
            self._since, self.report = since, report
            self._by.options = self._groups()
            self._group = self._by.value or "run"
            self._regroup(self._group)
            if self._output.is_shown:
                self._save()
            if self._span.value != since:  # it was chosen meanwhile
                self._renew()

        self.work("ask", lambda: self._ask(since), put, words="asking what was used", off=[self._span])

    def _drawn(self, *, treemap: bool) -> ipywidgets.Widget:
        import ipywidgets as w

        from nexa_sdk.notebook.widgets.figure import figure_widget

        if not self.report:
            return w.HTML("<div>Nothing was used.</div>")
        figure = figure_widget(self.report.plot(self._group, treemap=treemap))
        clear, grey = "rgba(0,0,0,0)", "rgba(127,127,127,1)"  # reads on light and on dark
        figure.update_layout(height=380, paper_bgcolor=clear, plot_bgcolor=clear, font={"color": grey})
        return figure

    def html(self) -> str:
        """Return what it comes to, and a row for each, with a bar."""
        report = self.report
        if report is None:
            return "<div>Nothing is known yet.</div>"
        told = "<br>".join(html.escape(line) for line in report.summary)
        head = f"<div><b>{html.escape(report.title)}</b><br>{told}</div>"
        if not report:
            return head
        table = report.by(self._group)
        amounts = [float(cost) if cost is not None else 0.0 for cost in table["cost"]]
        is_priced = any(amounts)
        if not is_priced:
            amounts = [float(hours) for hours in table["gpu_hours"]]
        most = max(amounts, default=0.0) or 1.0
        order = sorted(range(len(table)), key=lambda place: -amounts[place] if self._group != "day" else place)
        rows = []
        for place in order[:SHOWN]:
            row = table.iloc[place]
            cost = "" if row["cost"] is None else f"{row['cost']:,.2f} {row['currency']}"
            hours = [f"{float(row[name]):,.2f}" for name in ("gpu_hours", "cpu_hours")]
            rows.append([table.index[place], row["attempts"], *hours, cost, display.Markup(_bar(amounts[place] / most))])
        hidden = len(table) - len(rows)
        columns = [self._group, "attempts", "GPU-hours", "CPU-hours", "cost", ""]
        return head + display.titled_table("", columns, rows, more=f"… and {hidden:,} more" if hidden else "")

    def text(self) -> str:
        """Return the sums as text."""
        if self.report is None:
            return "nothing is known yet"
        return f"{self.report}\n{self.report.by(self._group).head(SHOWN).to_string()}" if self.report else str(self.report)


def _bar(share: float) -> str:
    return (
        f'<svg aria-hidden="true" width="120" height="9"><rect width="{120 * share:.1f}" height="9" '
        'style="fill:var(--jp-info-color1, var(--vscode-charts-blue, #0277bd))"/></svg>'
    )

"""The newest runs, those under way kept up to date; one of them can be opened."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nexa_sdk import display
from nexa_sdk.errors import ClusterError, NexaError
from nexa_sdk.known import attach, runs
from nexa_sdk.notebook import run_picture
from nexa_sdk.notebook.view import Closes, Looker, View
from nexa_sdk.records import UNDER_WAY

if TYPE_CHECKING:
    import ipywidgets
    import pandas as pd

    from nexa_sdk.run import Run
    from nexa_sdk.scheduling.watcher import Clock

__all__ = ["RunsView"]

EVERY = 3.0  # seconds between two looks at least; the clusters' pollers answer whoever asks within that


class RunsView(View):
    """An overview of runs.

    Parameters
    ----------
    limit : int
        How many, the newest first.
    """

    title = "the newest runs"

    def __init__(self, limit: int = 20, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._limit = limit
        self._table: pd.DataFrame = runs(limit=limit)
        self._runs: dict[str, Run] = {}
        self._away: dict[str, str] = {}
        self._part: View | None = None

    def listen(self, heard: Callable[[], bool]) -> Closes:
        """Look while any is under way, and at what else was launched."""
        return Looker(heard, EVERY, self.clock)

    def look(self) -> bool:
        """Ask for the states of those under way; a cluster that does not answer holds up none of the others' rows."""
        before = self.html()
        self._table = runs(limit=self._limit)
        self._away = {}
        for run_id, row in self._table.iterrows():
            if row["state"] and row["state"] not in UNDER_WAY:
                self._runs.pop(str(run_id), None)
                continue
            if row["cluster"] in self._away:
                self._away[str(run_id)] = self._away[row["cluster"]]
                continue
            try:
                if str(run_id) not in self._runs:
                    self._runs[str(run_id)] = attach(str(run_id))
                self._runs[str(run_id)].refresh(max_age=EVERY)
            except ClusterError as error:
                self._away[row["cluster"]] = self._away[str(run_id)] = str(error)
            except NexaError as error:  # of this one alone: its folder is gone, or its cluster's description
                self._away[str(run_id)] = str(error)
        return self.html() != before

    def build(self) -> ipywidgets.Widget:
        """Make the table, and a choice of which to open."""
        import ipywidgets as w

        self._shown = w.HTML()
        self._choice = w.Dropdown(options=[], description="Run", layout={"width": "28em", "max_width": "100%"})
        show = w.Button(description="Open", icon="folder-open", layout={"width": "auto"})
        show.on_click(self.guard(lambda _: self._open()))
        self._place = w.VBox([])
        return w.VBox([self._shown, w.HBox([self._choice, show], layout={"flex_flow": "row wrap"}), self._place])

    def draw(self) -> None:
        """Show the rows."""
        self._shown.value = self.html()
        names = [str(name) for name in self._table.index]
        if list(self._choice.options) != names:
            chosen = self._choice.value
            self._choice.options = names
            self._choice.value = chosen if chosen in names else next(iter(names), None)

    def _open(self) -> None:
        from nexa_sdk.notebook.views.run import RunView

        name = self._choice.value
        if not name:
            return

        def put(view: View) -> None:
            before, self._part = self._part, view
            self._place.children = [view.widget]
            if before is not None:
                before.close()

        def make() -> View:
            view = RunView(self._runs.get(name) or attach(name), clock=self.clock)
            view.embed()
            return view

        self.work("open", make, put, words=f"opening {name}")

    def close(self) -> None:
        """Stop looking, and close the run that is open."""
        part, self._part = self._part, None
        if part is not None:
            part.close()
        super().close()

    def html(self) -> str:
        """Return a row for each run, with a bar of its states."""
        rows: list[list[Any]] = []
        for run_id, row in self._table.iterrows():
            run = self._runs.get(str(run_id))
            if str(run_id) in self._away:
                state: Any = f"not reachable: {self._away[str(run_id)]}"
            elif run is not None and run.last_known:
                state = display.Markup(f"{html.escape(run.tally())}{run_picture.bar(run)}")
            else:
                state = row["state"] or "under way"
            age = f"{row['launched']:%Y-%m-%d %H:%M}"
            rows.append([run_id, row["cluster"], f"{row['trials']:,}", age, state])
        if not rows:
            return "<div>Nothing was launched yet.</div>"
        return display.titled_table("", ["run", "cluster", "trials", "launched (UTC)", "state"], rows)

    def text(self) -> str:
        """Return the table."""
        return self._table.to_string() if len(self._table) else "nothing was launched yet"

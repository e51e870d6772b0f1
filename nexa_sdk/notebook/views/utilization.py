"""What GPUs and nodes do, live: those of a run with its whole history, or those of a cluster from now on.

A plotly figure grows in place where a front end shows it; it is made when the front end says so, for
it is heavy, and an executed notebook has nobody to see it. Beneath stand the last values with a strip
of each curve, and what stands out. Where there are no widgets the strips are all, and a figure joins
them at the end of a run, to be zoomed into.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nexa_sdk.errors import ClusterError
from nexa_sdk.monitoring.picture import Painter
from nexa_sdk.notebook import front_end, top_picture
from nexa_sdk.notebook.view import Closes, Looker, View, close_widgets

if TYPE_CHECKING:
    import ipywidgets

    from nexa_sdk.cluster import Cluster
    from nexa_sdk.monitoring.samples import Series
    from nexa_sdk.notebook.widgets.utilization_chart import UtilizationChart
    from nexa_sdk.run import Run
    from nexa_sdk.scheduling.watcher import Clock

__all__ = ["OfCluster", "OfRun", "UtilizationView"]

PLOTLY = "application/vnd.plotly.v1+json"
SHOWN_VERDICTS = 5
JUDGED_EVERY = 30.0  # seconds
LAST_SAMPLES = 3.0  # seconds that the last ones may take to arrive


class Source(Protocol):
    """Whose utilization it is."""

    title: str
    every: float
    """Seconds between two looks at least."""
    is_over: bool

    def look(self) -> bool: ...
    def series(self) -> Sequence[Series]: ...
    def verdicts(self) -> list[str]: ...


class OfRun:
    """A run's, from its launch on."""

    every = 2.0

    def __init__(self, run: Run, trials: int | Sequence[int] | None = None) -> None:
        self.run = run
        self.title = f"{run.id} on {run.cluster}"
        self.is_over = False
        self._trials = trials
        self._version = -1
        self._ended_at: float | None = None

    def look(self) -> bool:
        """Fetch what is new; whether there was anything."""
        was_live = self._ended_at is None
        first = self._version < 0
        self.run.try_refresh()
        self.run.watched.read_on()
        if self.run.is_finished and was_live:
            self._ended_at = time.monotonic()
        ended = self._ended_at is not None
        self.is_over = ended and (first or time.monotonic() - (self._ended_at or 0) >= LAST_SAMPLES)
        is_new = self._version != self.run.watched.version  # another view, or a table, may have read it
        self._version = self.run.watched.version
        return is_new or ended

    def series(self) -> Sequence[Series]:
        """Return what was fetched."""
        return self.run.watched.series(self._trials)

    def verdicts(self) -> list[str]:
        """Say what stands out, the dearest first, and what it costs."""
        from nexa_sdk.charges import gpu_price

        found = self.run.watched.said(self._trials, price=gpu_price(self.run))
        more = len(found) - SHOWN_VERDICTS
        return [*found[:SHOWN_VERDICTS], *([f"… and {more} more: run.verdicts()"] if more > 0 else [])]


class OfCluster:
    """A cluster's, from the first look on."""

    every = 10.0
    is_over = False

    def __init__(self, cluster: Cluster) -> None:
        from nexa_sdk.now import Looks

        self.title = f"{cluster.name} now"
        self._looks = Looks(cluster)

    def look(self) -> bool:
        """Take a sample of everybody."""
        self._looks.look()
        return True

    def series(self) -> Sequence[Series]:
        """Return what was seen."""
        return self._looks.series

    def verdicts(self) -> list[str]:
        """Say who did not answer."""
        return [f"no answer of {name}: {words}" for name, words in self._looks.complaints.items()]


class UtilizationView(View):
    """A live picture of what GPUs and nodes do.

    Parameters
    ----------
    source : OfRun or OfCluster
    """

    def __init__(self, source: Source, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self.source = source
        self._painter = Painter()
        self._picture = self._painter.picture([])
        self._verdicts: list[str] = []
        self._judged_at = -JUDGED_EVERY
        self._chart: UtilizationChart | None = None
        self._place: Any = None
        self._table: Any = None

    @property
    def title(self) -> str:
        """Whose it is."""
        return self.source.title

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, and its last samples are here."""
        return self.source.is_over

    @property
    def figure(self) -> Any:
        """The picture as a plotly figure of your own, to be changed and saved."""
        import plotly.graph_objects as go

        return go.Figure(top_picture.figure(self._picture, self.title))

    def listen(self, heard: Callable[[], bool]) -> Closes:
        """Look every other second, and more seldom while nothing comes."""
        return Looker(heard, self.source.every, self.clock)

    def look(self) -> bool:
        """Fetch what is new, and gather it; whether there was anything."""
        is_new = self.source.look()
        if is_new:
            self._picture = self._painter.picture(self.source.series())
        if self.is_over or self.clock.now() - self._judged_at > JUDGED_EVERY:
            self._judged_at = self.clock.now()
            self._verdicts = self.source.verdicts()
        return is_new

    # ---- showing -------------------------------------------------------------------------------

    def build(self) -> ipywidgets.Widget:
        """Make place for the figure, and the table under it."""
        import ipywidgets

        self._table = ipywidgets.HTML()
        self._place = ipywidgets.VBox([])
        if front_end.widgets() == "all":
            from nexa_sdk.notebook.widgets.presence import Presence

            self._place.children = [Presence(self._shown)]
        return ipywidgets.VBox([self._place, self._table])

    def _shown(self) -> None:
        """Make the figure, now that there is somebody to see it."""
        self.work("chart", self._make_chart, self._put_chart, words="drawing …")

    def _make_chart(self) -> UtilizationChart:
        from nexa_sdk.notebook.widgets.utilization_chart import UtilizationChart

        chart = UtilizationChart()
        chart.update(self._picture, self.title)
        return chart

    def _put_chart(self, chart: UtilizationChart) -> None:
        self._chart = chart
        chart.update(self._picture, self.title)
        before, self._place.children = self._place.children, [chart.widget]
        for widget in before:
            close_widgets(widget)

    def draw(self) -> None:
        """Let the figure grow, and the table say what is now."""
        if self._chart is not None:
            self._chart.update(self._picture, self.title)
        self._table.value = self.html()

    def bundle(self) -> dict[str, Any]:
        """Return the picture in its forms; without widgets, at the end, as a plotly figure too: JupyterLab draws one once."""
        if self.widget is not None or not self.is_over:
            return super().bundle()
        return {PLOTLY: top_picture.figure(self._picture, self.title, [*self._verdicts, self.status.words]), **super().bundle()}

    def html(self) -> str:
        """Draw it as a table with a strip of each curve."""
        return top_picture.html(self._picture, self.title, self._verdicts)

    def text(self) -> str:
        """Write its last values."""
        return top_picture.text(self._picture, self.title, self._verdicts)

    def print(self) -> None:
        """Print the state, in a terminal again and again until the run has ended or Ctrl-C."""
        if not sys.stdout.isatty():
            super().print()
            return
        try:
            while True:
                sys.stdout.write(f"\x1b[H\x1b[J{self.text()}\n{self.status.words}\n")
                sys.stdout.flush()
                if self.is_over:
                    return
                time.sleep(self.source.every)
                try:
                    self.look()
                    self.status.clear_stale()
                except ClusterError as error:
                    self.status.tell_stale(error)
        except KeyboardInterrupt:
            return

"""A cluster: its nodes and GPUs, free and taken, the queue, and one's own runs; live."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nexa_sdk import display
from nexa_sdk.capacity import free_lines
from nexa_sdk.known import runs
from nexa_sdk.notebook.view import Closes, Looker, View

if TYPE_CHECKING:
    import ipywidgets
    import pandas as pd

    from nexa_sdk.cluster import Cluster
    from nexa_sdk.scheduling.watcher import Clock

__all__ = ["ClusterView"]

EVERY = 10.0  # seconds between two questions at least
SHOWN_NODES, SHOWN_JOBS, SHOWN_RUNS = 64, 30, 10
MOST_SQUARES = 16  # GPUs of a node that are drawn one by one


class ClusterView(View):
    """A live view of a cluster.

    Attributes
    ----------
    cluster : Cluster
    nodes, queue : pandas.DataFrame or None
        As they were when the cluster was asked last.
    """

    def __init__(self, cluster: Cluster, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self.cluster = cluster
        self.nodes: pd.DataFrame | None = None
        self.queue: pd.DataFrame | None = None

    @property
    def title(self) -> str:
        """The cluster's name."""
        return self.cluster.name

    def listen(self, heard: Callable[[], bool]) -> Closes:
        """Ask every ten seconds, and more seldom while nothing changes."""
        return Looker(heard, EVERY, self.clock)

    def look(self) -> bool:
        """Ask what is free, and who waits."""
        nodes, queue = self.cluster.nodes(), self.cluster.queue()
        is_new = self.nodes is None or self.queue is None or not (nodes.equals(self.nodes) and queue.equals(self.queue))
        self.nodes, self.queue = nodes, queue
        return is_new

    # ---- showing -------------------------------------------------------------------------------

    def build(self) -> ipywidgets.Widget:
        """Make the parts."""
        import ipywidgets as w

        from nexa_sdk.notebook.widgets.sections import Sections

        self._summary, self._nodes, self._queue, self._runs = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        parts: dict[str, Any] = {
            "Nodes": self._nodes,
            "Queue": self._queue,
            "My runs": self._runs,
            "Utilization": self._build_utilization,
        }
        self._part: View | None = None
        return w.VBox([self._summary, Sections(self, parts)])

    def _build_utilization(self) -> ipywidgets.Widget:
        from nexa_sdk.notebook.views.utilization import OfCluster, UtilizationView

        self._part = UtilizationView(OfCluster(self.cluster), clock=self.clock)
        return self._part.embed()

    def close(self) -> None:
        """Stop asking, its parts too."""
        part = getattr(self, "_part", None)
        if part is not None:
            part.close()
        super().close()

    def draw(self) -> None:
        """Show what was said last."""
        self._summary.value, self._nodes.value, self._queue.value = self._summary_html(), self._nodes_html(), self._queue_html()
        self._runs.value = self._runs_html()

    def html(self) -> str:
        """Return all parts, one under the other."""
        return f"<div>{self._summary_html()}{self._nodes_html()}{self._queue_html()}</div>"

    def text(self) -> str:
        """Return the sums, and the nodes."""
        if self.nodes is None:
            return f"{self.cluster!r}: nothing is known yet"
        return "\n".join([repr(self.cluster), *self._sums(), self.nodes.head(SHOWN_NODES).to_string()])

    def _sums(self) -> list[str]:
        nodes, queue = self.nodes, self.queue
        if nodes is None or queue is None:
            return ["nothing is known yet"]
        count = len(nodes)
        found = [f"{count:,} node{'s' if count != 1 else ''}", *free_lines(nodes)]
        if len(queue):
            found.append("queue: " + ", ".join(f"{number:,} {state}" for state, number in queue["state"].value_counts().items()))
        return found

    def _summary_html(self) -> str:
        words = " · ".join(map(html.escape, self._sums()))
        url = f"<span style='color:{display.MUTED}'>{html.escape(self.cluster.url)}</span>"
        return f"<div><b>{html.escape(self.cluster.name)}</b> {url}<br>{words}</div>"

    def _nodes_html(self) -> str:
        if self.nodes is None:
            return ""
        import pandas as pd

        rows = []
        for name, node in self.nodes.head(SHOWN_NODES).iterrows():
            mem = "" if pd.isna(node["mem_free"]) else f"{node['mem_free'] / 1024:,.0f} of {node['mem'] / 1024:,.0f} GiB"
            cores = f"{node['cpus_free']} of {node['cpus']}"
            rows.append([name, node["partitions"], node["state"], cores, display.Markup(_squares(node)), node["gpu_type"], mem])
        hidden = len(self.nodes) - len(rows)
        more = f"… and {hidden:,} more" if hidden else ""
        return display.titled_table("", ["node", "partitions", "state", "cores free", "GPUs free", "type", "memory free"], rows, more=more)

    def _queue_html(self) -> str:
        if self.queue is None or not len(self.queue):
            return "<div>Nothing waits and nothing runs.</div>" if self.cluster.url != "local" else "<div>There is no queue here.</div>"
        shown = self.queue.head(SHOWN_JOBS)
        rows = [[job, *(row[name] for name in shown.columns)] for job, row in shown.iterrows()]
        hidden = len(self.queue) - len(rows)
        return display.titled_table("", ["job", *shown.columns], rows, more=f"… and {hidden:,} more" if hidden else "")

    def _runs_html(self) -> str:
        known = runs(limit=200)
        mine = known[known["cluster"] == self.cluster.url].head(SHOWN_RUNS)
        if mine.empty:
            return "<div>Nothing was launched here yet.</div>"
        rows = [[run, row["trials"], f"{row['launched']:%Y-%m-%d %H:%M}", row["state"] or "under way"] for run, row in mine.iterrows()]
        return display.titled_table("", ["run", "trials", "launched (UTC)", "state"], rows)


def _squares(node: Any) -> str:
    """Draw a node's GPUs: full squares are taken, hollow ones free; the number says it as well."""
    gpus, free = int(node["gpus"]), int(node["gpus_free"])
    if not gpus:
        return ""
    words = f"{free} of {gpus}"
    if gpus > MOST_SQUARES:
        return words
    drawn = "".join(
        f'<rect x="{12 * k + 1}" y="1" width="9" height="9" stroke="currentColor" fill="{"currentColor" if k < gpus - free else "none"}"/>'
        for k in range(gpus)
    )
    size = f'width="{12 * gpus}" height="11" style="vertical-align:middle"'
    return f'<svg role="img" aria-label="{words} GPUs free" {size}>{drawn}</svg> {words}'

"""The views as functions: what a person sees of an object, in the cell that calls it.

Each returns its view, which is live until its object can't change any more, it is closed, or its cell
is executed again. In a terminal each prints what it would show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexa_sdk.cluster import Cluster
    from nexa_sdk.cost_report import CostReport
    from nexa_sdk.notebook.views.cluster import ClusterView
    from nexa_sdk.notebook.views.cost import CostView
    from nexa_sdk.notebook.views.run import RunView
    from nexa_sdk.notebook.views.runs import RunsView
    from nexa_sdk.notebook.views.sweep import SweepView
    from nexa_sdk.notebook.views.utilization import UtilizationView
    from nexa_sdk.run import Run
    from nexa_sdk.sweep import Sweep

__all__ = ["cluster", "cost", "is_live", "run", "runs", "sweep", "utilization"]


def cluster(what: Cluster | str = "local") -> ClusterView:
    """Show a cluster live: nodes and GPUs, free and taken, the queue, and one's own runs.

    Parameters
    ----------
    what : Cluster or str
        What ``Cluster(…)`` takes.
    """
    from nexa_sdk.cluster import Cluster
    from nexa_sdk.notebook.views.cluster import ClusterView

    where = Cluster(what) if isinstance(what, str) else what
    return ClusterView(_expected(where, (Cluster,), "a Cluster, or its name")).show()


def cost(what: CostReport | Run | Cluster, *, since: str = "7 days") -> CostView:
    """Show what was used and what it cost, added up as one chooses.

    Parameters
    ----------
    what : CostReport, Run or Cluster
    since : str
        Of a cluster, since when: ``"7 days"``, ``"2026-11-01"``.

    Raises
    ------
    InvalidInput
        For a time that can't be meant.
    """
    from nexa_sdk.cluster import Cluster
    from nexa_sdk.cost_report import CostReport
    from nexa_sdk.notebook.views.cost import CostView
    from nexa_sdk.run import Run

    known = _expected(what, (CostReport, Run, Cluster), "a CostReport, a run as attach(…) returns it, or a cluster as in Cluster('local')")
    return CostView(known, since=since).show()


def is_live() -> bool:
    """Whether what is shown can be kept up to date: in a notebook, not in a terminal."""
    from nexa_sdk.notebook import front_end

    return front_end.in_notebook()


def run(what: Run) -> RunView:
    """Show a run live: its trials as a grid, logs, tables, what it cost, and what can be done with it.

    In a terminal it waits for the end, and prints a table.
    """
    from nexa_sdk.notebook.views.run import RunView
    from nexa_sdk.run import Run

    return RunView(_expected(what, (Run,), "a run, as attach(…) returns it by its id")).show()


def runs(limit: int = 20) -> RunsView:
    """Show the newest runs, those under way kept up to date; one of them can be opened.

    Parameters
    ----------
    limit : int
        How many.
    """
    from nexa_sdk.notebook.views.runs import RunsView

    return RunsView(limit).show()


def sweep(of: Sweep | None = None, *, cluster: Cluster | str | None = None) -> SweepView:
    """Build a sweep in a form, see what would happen, and launch it.

    Parameters
    ----------
    of : Sweep, optional
        What to begin with.
    cluster : Cluster or str, optional
        Where; it can be chosen in the form.

    Raises
    ------
    InvalidInput
        For a sweep that was drawn, zipped or chosen by a function: how is not kept in it.
    """
    from nexa_sdk.cluster import Cluster
    from nexa_sdk.draft import Draft
    from nexa_sdk.notebook.views.sweep import SweepView
    from nexa_sdk.sweep import Sweep

    if of is not None:
        _expected(of, (Sweep,), "a Sweep to begin with, or nothing")
    where = Cluster(cluster) if isinstance(cluster, str) else cluster
    return SweepView(Draft.of(of) if of is not None else None, cluster=where).show()


def utilization(what: Run | Cluster, trials: int | Sequence[int] | None = None) -> UtilizationView:
    """Show live what GPUs and nodes do: a run's with its whole history, or a cluster's from now on.

    Parameters
    ----------
    what : Run or Cluster
    trials : int or sequence of int, optional
        Of a run, these alone.

    Raises
    ------
    InvalidInput
        When nobody watched the run: it was launched without telemetry.
    """
    from nexa_sdk.cluster import Cluster
    from nexa_sdk.notebook.views.utilization import OfCluster, OfRun, UtilizationView
    from nexa_sdk.run import Run

    _expected(what, (Run, Cluster), "a run as attach(…) returns it, or a cluster as in Cluster('local')")
    return UtilizationView(OfCluster(what) if isinstance(what, Cluster) else OfRun(what, trials)).show()


def _expected(what: Any, kinds: tuple[type, ...], words: str) -> Any:
    """Return what was given, if it is of one of these kinds."""
    from nexa_sdk.errors import InvalidInput

    if not isinstance(what, kinds):
        raise InvalidInput(f"{what!r} can't be shown here; give {words}")
    return what

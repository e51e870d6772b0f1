"""Sweeps on any cluster, from a notebook: say what to try, see what will run, get one DataFrame.

>>> from nexa_sdk import Cluster, Job, Sweep
>>> sweep = Sweep("python train.py", grid={"lr": [1e-3, 1e-4], "seed": range(3)})
>>> plan = Cluster("local").plan(sweep, Job(time="0:10:00"))
>>> run = plan.submit().wait()
>>> run.results()

In a notebook ``%load_ext nexa_sdk`` adds ``%nexa``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexa_sdk.budget import Budget
    from nexa_sdk.budgeting import budgets, set_budget
    from nexa_sdk.cluster import Cluster
    from nexa_sdk.cost_report import CostReport
    from nexa_sdk.distributions import choice, loguniform, normal, randint, uniform
    from nexa_sdk.errors import NexaError, RunFailed
    from nexa_sdk.job import Job
    from nexa_sdk.known import attach, clusters, runs
    from nexa_sdk.monitoring.usage.block import track_usage
    from nexa_sdk.plan import Plan
    from nexa_sdk.retry import Retry
    from nexa_sdk.run import Run
    from nexa_sdk.states import State
    from nexa_sdk.sweep import Sweep

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Cluster",
    "CostReport",
    "Job",
    "NexaError",
    "Plan",
    "Retry",
    "Run",
    "RunFailed",
    "State",
    "Sweep",
    "attach",
    "budgets",
    "choice",
    "clusters",
    "loguniform",
    "normal",
    "randint",
    "runs",
    "set_budget",
    "track_usage",
    "uniform",
]

# Imported when first used: `import nexa_sdk` costs next to nothing, and a Sweep needs no pydantic.
_HOMES = {
    "Budget": "budget",
    "Cluster": "cluster",
    "CostReport": "cost_report",
    "Job": "job",
    "NexaError": "errors",
    "Plan": "plan",
    "Retry": "retry",
    "Run": "run",
    "RunFailed": "errors",
    "State": "states",
    "Sweep": "sweep",
    "attach": "known",
    "budgets": "budgeting",
    "choice": "distributions",
    "clusters": "known",
    "loguniform": "distributions",
    "normal": "distributions",
    "randint": "distributions",
    "runs": "known",
    "set_budget": "budgeting",
    "track_usage": "monitoring.usage.block",
    "uniform": "distributions",
}


def __getattr__(name: str) -> Any:
    if name == "ui":  # a module: the views, as functions
        return import_module("nexa_sdk.ui")
    if name not in _HOMES:
        raise AttributeError(f"module 'nexa_sdk' has no attribute {name!r}")
    value = getattr(import_module(f"nexa_sdk.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "ui"})


def load_ipython_extension(ip: Any) -> None:
    """Add ``%nexa`` to an IPython: what ``%load_ext nexa_sdk`` calls."""
    from nexa_sdk.notebook.magics import load

    load(ip)


def unload_ipython_extension(ip: Any) -> None:
    """Take ``%nexa`` away again: what ``%unload_ext`` and ``%reload_ext`` call."""
    from nexa_sdk.notebook.magics import unload

    unload(ip)

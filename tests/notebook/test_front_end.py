"""Which widgets a front end can show, and that no others are sent to one that has the core ones alone."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import ipywidgets
import pytest

from nexa_sdk import Cluster, Sweep
from nexa_sdk.draft import Draft
from nexa_sdk.errors import InvalidInput
from nexa_sdk.notebook import front_end
from nexa_sdk.notebook.views.cluster import ClusterView
from nexa_sdk.notebook.views.cost import CostView
from nexa_sdk.notebook.views.run import RunView
from nexa_sdk.notebook.views.runs import RunsView
from nexa_sdk.notebook.views.sweep import SweepView
from nexa_sdk.notebook.views.utilization import OfRun, UtilizationView

CORE = {"@jupyter-widgets/base", "@jupyter-widgets/controls", "@jupyter-widgets/output"}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_end, "in_notebook", lambda: True)
    for name in ("NEXA_WIDGETS", "VSCODE_PID", "VSCODE_CWD"):
        monkeypatch.delenv(name, raising=False)


def test_jupyter_has_all_and_vs_code_the_core_ones(kernel, monkeypatch):
    assert front_end.widgets() == "all"
    monkeypatch.setenv("VSCODE_PID", "1")
    assert front_end.widgets() == "core"
    monkeypatch.setenv("NEXA_WIDGETS", "all")
    assert front_end.widgets() == "all", "who says so knows it better"
    monkeypatch.setenv("NEXA_WIDGETS", "some")
    with pytest.raises(InvalidInput, match="NEXA_WIDGETS='some': it is no, core or all"):
        front_end.widgets()


def test_colabs_manager_of_other_widgets_is_switched_on(kernel, monkeypatch):
    switched = []
    colab = ModuleType("google.colab")  # only Google's own machines have it
    colab.output = SimpleNamespace(enable_custom_widget_manager=lambda: switched.append(True))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google", SimpleNamespace(colab=colab))
    assert front_end.widgets() == "all"
    assert switched == [True]


def test_a_terminal_has_none(monkeypatch):
    monkeypatch.setenv("NEXA_WIDGETS", "all")
    assert front_end.widgets() == "no"


@pytest.mark.parametrize("kind", ["run", "runs", "cluster", "cost", "utilization", "sweep"])
def test_where_only_core_widgets_are_none_else_is_made(kernel, monkeypatch, local: Cluster, program, kind):
    monkeypatch.setenv("NEXA_WIDGETS", "core")
    program("print('hello')")
    run = local.launch(Sweep("python train.py", {"x": [1, 2]}), time="0:01:00", telemetry=1.0)
    run.wait(progress=False)
    view = {
        "run": lambda: RunView(run),
        "runs": RunsView,
        "cluster": lambda: ClusterView(local),
        "cost": lambda: CostView(run),
        "utilization": lambda: UtilizationView(OfRun(run)),
        "sweep": lambda: SweepView(Draft(command="python train.py")),
    }[kind]()
    known = set(ipywidgets.widgets.widget._instances)
    view.embed()
    made = [widget for key, widget in ipywidgets.widgets.widget._instances.items() if key not in known]
    assert len(made) > 3
    assert {widget._model_module for widget in made} <= CORE
    view.close()

"""The views of clusters, of costs and of many runs, without a browser: what they show, on any page."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, Sweep, ui
from nexa_sdk.errors import ClusterError, InvalidInput
from nexa_sdk.notebook import front_end
from nexa_sdk.notebook.views.cluster import ClusterView
from nexa_sdk.notebook.views.cost import CostView
from nexa_sdk.notebook.views.runs import RunsView

WAITS = """
    deadline = time.time() + 500
    while not os.path.exists("go") and time.time() < deadline:
        time.sleep(0.05)
"""


@pytest.fixture(params=["all", "core"])
def widgets(request, monkeypatch) -> str:
    monkeypatch.setattr(front_end, "widgets", lambda: request.param)
    return request.param


def test_a_cluster_shows_what_is_free_and_who_waits(slurm: Cluster, program, widgets) -> None:
    run = slurm.launch(Sweep(program(WAITS), {"x": list(range(9))}), time="0:10:00", gpus=1)
    wait_until(lambda: run.status()["state"].tolist().count("RUNNING") == 8)
    view = ClusterView(slurm)
    assert view.look()
    view.widget = view.build()
    view.draw()
    assert "0 of 8 h100 GPUs free" in view._summary.value
    assert view._nodes.value.count('fill="currentColor"') == 8
    assert run.id in view._queue.value
    assert "8 RUNNING, 1 PENDING" in view.text()
    assert run.id in view._runs.value
    assert "<table>" in view.html()
    Path("go").touch()
    run.wait(timeout=240, progress=False)
    wait_until(view.look)
    view.draw()
    assert "8 of 8 h100 GPUs free" in view._summary.value
    view.close()


@pytest.mark.parametrize("show", [ui.cluster, ui.cost, ui.run, ui.sweep, ui.utilization])
def test_what_can_not_be_shown_is_refused_in_words(show):
    with pytest.raises(InvalidInput, match=r"3 can't be shown here; give a"):
        show(3)


def test_costs_are_added_up_as_one_chooses(local: Cluster, program, widgets) -> None:
    path = Path(os.environ["XDG_CONFIG_HOME"], "nexa", "rates.toml")
    path.parent.mkdir(parents=True)
    path.write_text('[clusters.local]\ncurrency = "EUR"\ncpu_hour = 3600\n')
    cluster = local
    for name in ("one", "two"):
        cluster.launch(Sweep(program("time.sleep(0.2)"), {"x": [1, 2]}, name=name), time="0:01:00").wait(progress=False)
    view = CostView(cluster)
    view.look()
    view.widget = view.build()
    view.draw()
    assert view._table.value.count("<svg") == 2
    assert "cluster.cost(&#x27;7 days&#x27;).by(&#x27;run&#x27;)" in view._line.value
    view._by.value = "state"
    assert "COMPLETED" in view._table.value
    assert view.python() == "cluster.cost('7 days').by('state')"
    assert ("Bars" in view._sections.parts) == (widgets == "all")
    assert "EUR" in view.text()
    view.close()
    assert "attempts" in CostView(cluster.cost("1 day")).html()


def test_runs_are_kept_up_to_date_and_one_that_is_away_is_told(local: Cluster, program, widgets, monkeypatch) -> None:
    run = local.launch(Sweep(program(WAITS), {"x": [1, 2]}), time="0:10:00")
    view = RunsView()
    view.look()
    view.widget = view.build()
    view.draw()
    assert run.id in view._shown.value
    wait_until(lambda: [view.look()] and "2 RUNNING" in view.html(), every=0.5)
    view._choice.value = run.id
    view._open()
    wait_until(lambda: view._place.children)
    Path("go").touch()
    wait_until(lambda: [view.look()] and "COMPLETED" in view.html())
    wait_until(lambda: "2 COMPLETED" in view._part._summary.value)
    view.close()
    other = local.launch(Sweep(program("pass"), {"x": [3]}), time="0:10:00").wait(progress=False)

    def away(*args, **named):
        raise ClusterError("no route <b>to</b> host")

    lost = RunsView()
    lost._table.loc[other.id, "state"] = ""
    with monkeypatch.context() as patched:
        patched.setattr("nexa_sdk.notebook.views.runs.runs", lambda **_: lost._table)
        patched.setattr("nexa_sdk.run.Run.refresh", away)
        lost.look()
    assert "not reachable: no route &lt;b&gt;to" in lost.html()


def test_in_a_terminal_they_are_printed(local: Cluster, capsys) -> None:
    ui.runs()
    ui.cluster(local)
    assert "cores free" in capsys.readouterr().out

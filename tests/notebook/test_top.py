"""The live picture: what it shows, in its three forms, and that a cell takes it up again in another kernel."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
from comm.base_comm import BaseComm
from nbclient import NotebookClient
from until import wait_until

from nexa_sdk import Cluster, Sweep, now
from nexa_sdk.monitoring.picture import Painter
from nexa_sdk.monitoring.verdicts import Verdict
from nexa_sdk.notebook import top_picture
from nexa_sdk.notebook.views.utilization import OfRun, UtilizationView
from nexa_sdk.notebook.widgets.utilization_chart import UtilizationChart
from nexa_sdk.rates import Price

sys.path[:0] = [str(Path(__file__).parents[1] / "gpus"), str(Path(__file__).parents[1] / "unit")]

from stand_in import library_folder  # noqa: E402
from test_verdicts import BUSY, FINE, IDLE, series  # noqa: E402

PLOTLY = "application/vnd.plotly.v1+json"


def many(nodes: int, gpus: int):
    return [series([(600, FINE, [BUSY] * (gpus - 1) + [IDLE])], node=f"n{node}", task=f"{node}_0") for node in range(nodes)]


@pytest.mark.parametrize(
    ("nodes", "gpus", "kinds"),
    [
        (1, 0, {"scatter"}),
        (1, 1, {"scatter"}),
        (1, 8, {"scatter"}),
        (4, 8, {"heatmap", "scatter"}),
        (20, 8, {"heatmap"}),
        (20, 0, {"heatmap"}),
    ],
)
def test_few_are_lines_and_many_are_a_heat_map(nodes, gpus, kinds):
    go = pytest.importorskip("plotly.graph_objects")
    shown = [series([(600, FINE, [BUSY] * gpus)], node=f"n{node}", task=f"{node}_0") for node in range(nodes)]
    figure = top_picture.figure(Painter().picture(shown), "train on work", ["GPU 3 idle", ""])
    assert {trace["type"] for trace in figure["data"]} == kinds
    go.Figure(figure)  # plotly's own validation
    assert len(json.dumps(figure)) < 400_000


def test_a_cluster_that_is_looked_at_now_and_then_has_a_curve(monkeypatch):
    looks = now.Looks(Cluster("local"))
    moment = 1_800_000_000.0
    for look in range(12):
        moment += 10.3 + look % 3
        seen = [series([(1, FINE, [BUSY])], covers=1.0, begin=moment)]
        monkeypatch.setattr(now, "look_at_cluster", lambda _, seen=seen: (seen, {}))
        looks.look()
    picture = Painter().picture(looks.series)
    for row in (*picture.gpus, *picture.nodes):
        assert len(row.curve.mean) >= 6
        assert not np.isnan(row.curve.mean).any(), "a line has no single points"


def test_a_picture_of_nothing_is_one():
    go = pytest.importorskip("plotly.graph_objects")
    go.Figure(top_picture.figure(Painter().picture([]), "train"))
    assert top_picture.text(Painter().picture([]), "train") == "train\nno samples yet"
    assert "<table>" in top_picture.html(Painter().picture([]), "train")


class WellFormed(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("br", "path"):
            self.open.append(tag)
        assert tag != "script"

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_static_page_shows_a_table_with_curves_and_no_script():
    picture = Painter().picture(many(4, 8))
    page = top_picture.html(picture, "<script>alert(1)</script>", ["<b>x</b>"])
    parser = WellFormed()
    parser.feed(page)
    assert parser.open == []
    assert page.count("<svg") == 16 + 4
    assert "… and 16 more GPUs, which work more" in page
    text = top_picture.text(picture, "train")
    assert "GPU n0 · 7" in text, "of many, those that work least"
    assert re.search(r"GPU n0 · 7 +0 % +0 % +1.0 of 80 GiB +70 W", text)


def test_a_hostile_name_is_shown_as_it_is():
    one = series([(600, FINE, [BUSY])], node='<img src=x onerror="x">')
    picture = Painter().picture([one])
    assert "<img" not in top_picture.html(picture, "t")
    assert "<img" not in json.dumps(top_picture.figure(picture, "t"))


# ---- live ----------------------------------------------------------------------------------------

WAITS = """
    deadline = time.time() + 500
    while not os.path.exists("go") and time.time() < deadline:
        time.sleep(0.05)
"""


@pytest.fixture
def run(local: Cluster, program):
    env = {"LD_LIBRARY_PATH": str(library_folder()), "STAND_IN_GPUS": "2"}
    return local.launch(Sweep(program(WAITS)), time="0:10:00", telemetry=0.2, env=env)


def test_two_views_of_one_run_show_the_same(run):
    wait_until(lambda: len(run.utilization()) > 4)
    views = [UtilizationView(OfRun(run)), UtilizationView(OfRun(run))]
    for view in views:
        view.look()
        assert "GPU" in view.text()
        assert view.figure.data
    Path("go").touch()


def test_the_picture_says_what_idle_gpus_cost(run, monkeypatch):
    monkeypatch.setattr("nexa_sdk.charges.gpu_price", lambda _: Price(Decimal("2.50"), None, None, "EUR", "rates.toml", 0.0))
    idle = Verdict("gpu-idle", "GPU 1 of n1 idle for 40 min", "1_0", "n1", 1, gpu_hours=0.64)
    monkeypatch.setattr("nexa_sdk.watched.judge", lambda *_: [idle])
    view = UtilizationView(OfRun(run))
    view.look()
    assert "GPU 1 of n1 idle for 40 min (1.60 EUR)" in view.text()
    assert "GPU 1 of n1 idle for 40 min (1.60 EUR)" in view.html()
    Path("go").touch()


def test_a_terminal_is_told_once_where_nobody_watches_it(run, capsys):
    wait_until(lambda: len(run.utilization()) > 4)
    view = run.top()
    assert "GPU" in capsys.readouterr().out
    assert "ended" in repr(view)
    Path("go").touch()


CELL = "%load_ext nexa_sdk\nview = %nexa top {run}\nview"
WAIT = "import time\nwhile view.is_live: time.sleep(0.2)"


def execute(*cells: str, widgets: str = "no") -> nbformat.NotebookNode:
    cells = (f"import os\nos.environ['NEXA_WIDGETS'] = {widgets!r}", *cells)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3", timeout=500).execute()
    del notebook.cells[0]
    return notebook


def test_a_cell_that_runs_again_in_another_kernel_has_the_whole_history_and_leaves_a_picture(run):
    wait_until(lambda: len(run.utilization()) > 10)
    drawn = "xs = view.figure.data[0]['x']\nprint(len(xs), xs[0], sep='|')"
    first = execute(CELL.format(run=run.id), drawn)  # this kernel ends while the run goes on
    (output,) = first.cells[0].outputs
    assert set(output["data"]) == {"text/html", "text/plain"}, "JupyterLab would draw no update of a plotly figure"
    assert "<svg" in output["data"]["text/html"]
    before, begin = first.cells[1].outputs[0]["text"].strip().split("|")
    since = time.time()
    wait_until(lambda: time.time() > since + 3)
    release = "open('go', 'w').close()"
    second = execute(CELL.format(run=run.id), release, WAIT)
    (output,) = second.cells[0].outputs
    assert set(output["data"]) == {PLOTLY, "text/html", "text/plain"}
    assert output["data"][PLOTLY]["data"][0]["x"][0] == begin
    assert len(output["data"][PLOTLY]["data"][0]["x"]) > int(before)
    assert "<svg" in output["data"]["text/html"]
    assert run.wait().is_finished
    assert len(nbformat.writes(second)) < 300_000, "the saved notebook stays small"
    assert [cell.outputs for cell in second.cells[1:]] == [[], []]


def test_an_executed_notebook_with_widgets_stays_small_and_shows_the_strips(run):
    wait_until(lambda: len(run.utilization()) > 4)
    Path("go").touch()
    run.wait()
    saved = execute(CELL.format(run=run.id), "import sys\nprint('plotly' in sys.modules)", widgets="all")
    widgets, picture = saved.cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in widgets["data"]
    assert set(picture["data"]) == {"text/html", "text/plain"}
    assert "<svg" in picture["data"]["text/html"]
    assert saved.cells[1].outputs[0]["text"] == "False\n", "nobody saw it, so nothing was drawn"
    assert len(nbformat.writes(saved)) < 100_000


def test_a_chart_sends_only_what_is_new(monkeypatch):
    shown = [series([(1200, FINE, [BUSY] * 4)], node=f"n{node}", task=f"{node}_0") for node in range(16)]
    painter, chart = Painter(), UtilizationChart()
    picture = painter.picture(shown)
    chart.update(picture, "train")
    blocks = len(chart.widget.data)
    assert {trace.type for trace in chart.widget.data} == {"heatmap"}
    assert sum(len(trace.z[0]) for trace in chart.widget.data if trace.yaxis == "y") == len(picture.time)
    sent = []
    monkeypatch.setattr(chart.widget, "_send_update_msg", lambda *given, **named: sent.append((given, named)), raising=False)
    monkeypatch.setattr(chart.widget, "send_state", lambda key=None: sent.append(key))
    chart.update(picture, "train")
    assert sent == []
    last = replace(picture, gpus=[replace(row, curve=row.curve._replace(mean=np.append(row.curve.mean[:-1], 7))) for row in picture.gpus])
    chart.update(last, "train")
    assert len(chart.widget.data) == blocks
    assert len(sent) > 0
    assert chart.widget.data[-1].z is not None
    assert chart.widget.data[blocks // 2 - 1].z[0][-1] == 7


def test_a_chart_loses_nothing_while_the_front_end_speaks(monkeypatch):
    """What the front end says is taken by the kernel's thread, while another lets the chart grow."""
    sent = []

    class Line(BaseComm):
        def publish_msg(self, msg_type, data=None, **more):
            sent.append((data or {}).get("state", {}))

    monkeypatch.setattr("comm.create_comm", Line)
    picture = Painter().picture([series([(600, FINE, [BUSY, IDLE])])])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(30):
            sent.clear()
            chart, is_over = UtilizationChart(), threading.Event()

            def speak(chart=chart, is_over=is_over):
                while not is_over.is_set():
                    chart.widget.set_state({"_js2py_layoutDelta": {"layout_delta": {}, "layout_edit_id": -1}})

            front_end = threading.Thread(target=speak)
            front_end.start()
            chart.update(picture, "train")
            is_over.set()
            front_end.join()
            assert [len(state["_py2js_addTraces"]["trace_data"]) for state in sent if state.get("_py2js_addTraces")] == [3]
    finally:
        sys.setswitchinterval(interval)


def test_a_front_end_that_comes_later_has_the_chart_as_it_is_now():
    chart, picture = UtilizationChart(), Painter().picture([series([(600, FINE, [BUSY, IDLE])])])
    chart.update(picture, "train")
    state = chart.widget.get_state()
    drawn = top_picture.figure(picture, "train")
    assert [trace["name"] for trace in state["_widget_data"]] == [trace["name"] for trace in drawn["data"]]
    assert state["_widget_data"][0]["y"]["shape"] == (len(picture.time),)
    assert state["_widget_layout"]["title"]["text"] == chart.widget.layout.title.text


def test_a_chart_that_was_half_drawn_is_drawn_anew(monkeypatch):
    chart, picture = UtilizationChart(), Painter().picture([series([(600, FINE, [BUSY, IDLE])])])
    with monkeypatch.context() as broken:
        broken.setattr(chart.widget, "_send_addTraces_msg", lambda _: 1 / 0, raising=False)
        with pytest.raises(ZeroDivisionError):
            chart.update(picture, "train")
    chart.update(picture, "train")
    assert [trace.name for trace in chart.widget.data] == [trace["name"] for trace in top_picture.figure(picture, "train")["data"]]
    assert len(chart.widget.data[0].y) == len(picture.time)


def test_what_nobody_watched_is_said_in_one_line(local: Cluster, program):
    run = local.launch(Sweep(program("pass")), time="0:01:00").wait()
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError, match="telemetry=True"):
        execute(CELL.format(run=run.id))

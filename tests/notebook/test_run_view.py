"""The view of a run, without a browser: its grid, a trial's log, what it does and asks first, what stays, and that it grows by nothing."""

from __future__ import annotations

import gc
import os
import random
import re
import threading
import time
import tracemalloc
import weakref
from collections.abc import Collection
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ipywidgets
import nbformat
import pytest
from nbclient import NotebookClient
from until import wait_until

from nexa_sdk import Cluster, Sweep
from nexa_sdk.draft import Draft, Parameter
from nexa_sdk.journal import Journal
from nexa_sdk.notebook import front_end, run_picture
from nexa_sdk.notebook.view import View, open_views
from nexa_sdk.notebook.views.cluster import ClusterView
from nexa_sdk.notebook.views.run import RunView
from nexa_sdk.notebook.views.runs import RunsView
from nexa_sdk.notebook.views.sweep import SweepView
from nexa_sdk.notebook.views.utilization import OfRun, UtilizationView
from nexa_sdk.notebook.widgets.log import LogPane, plain
from nexa_sdk.notebook.widgets.task_grid import TaskGrid
from nexa_sdk.scheduling.watcher import Clock, Watcher
from nexa_sdk.states import State

TRAIN = """
    number = int(sys.argv[2])
    print(f"<b>trial</b> {number}", flush=True)
    deadline = time.time() + 500
    while not os.path.exists("go") and time.time() < deadline:
        time.sleep(0.05)
    if number % 2 and not os.path.exists("mended"):
        sys.exit("the data is not there")
    print("done", flush=True)
"""


class Shown:
    """An output that keeps what it shows last."""

    def __init__(self) -> None:
        self.bundle: dict[str, Any] = {}
        self.is_shown = False

    def show(self, bundle: dict[str, Any]) -> None:
        self.bundle, self.is_shown = bundle, True


@pytest.fixture(params=["all", "core"])
def widgets(request, monkeypatch) -> str:
    monkeypatch.setattr(front_end, "in_notebook", lambda: True)
    monkeypatch.setattr(front_end, "widgets", lambda: request.param)
    return request.param


def shown(run, **options) -> RunView:
    return seen(RunView(run, **options))


def seen(view: View) -> Any:
    view._output, view._widgets = Shown(), Shown()  # type: ignore[assignment]
    return view.show()


# ---- the grid ------------------------------------------------------------------------------------


def run_of(states: list[State]) -> Any:
    return SimpleNamespace(id="train-1", last_known=[SimpleNamespace(status=SimpleNamespace(state=state)) for state in states])


class Squares(HTMLParser):
    """Reads the saved grid as a browser draws it: which square has the colour of which state."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: dict[tuple[int, int], str] = {}
        self.path = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.path = dict(attrs)["d"] if tag == "path" else self.path

    def handle_data(self, data: str) -> None:
        words = data.split()
        if len(words) != 2 or not self.path:
            return
        if "m" in self.path:
            x = y = 0
            for dx, dy, length in re.findall(r"m(-?\d+) (-?\d+)h(\d+)", self.path):
                x, y = x + int(dx), y + int(dy)
                self.cells.update({(x + k, y): words[1] for k in range(int(length))})
                x += int(length)
        else:
            for left, top, width, height in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)", self.path):
                assert left == "0"
                self.cells.update({(x, int(top) + y): words[1] for x in range(int(width)) for y in range(int(height))})
        self.path = ""


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 1])
def test_the_saved_grid_shows_every_trial_however_mixed_and_stays_small(share):
    chance = random.Random(1)
    states = [State.FAILED if chance.random() < share else State.COMPLETED for _ in range(9_987)]
    drawn = run_picture.grid(run_of(states))
    assert len(drawn) < 60_000
    cells = Squares(drawn).cells
    assert [cells[place % 100, place // 100] for place in range(len(states))] == [state.value for state in states]
    assert len(cells) == len(states)


def test_of_very_many_trials_several_share_a_square_and_no_failure_is_lost():
    states = [State.COMPLETED] * 123_456
    states[77_777] = State.TIMEOUT
    drawn = run_picture.grid(run_of(states))
    assert len(drawn) < 60_000
    assert "each square is 13 trials" in drawn
    assert "1 TIMEOUT" in drawn
    chance = random.Random(1)
    assert len(run_picture.grid(run_of([chance.choice(list(State)) for _ in range(10_000)]))) < 60_000


def test_the_live_grid_sends_what_changed_or_all_where_that_is_less(monkeypatch):
    grid, chosen = TaskGrid(lambda trial: chosen.append(trial)), []
    sent: list[tuple[Any, list[bytes]]] = []
    monkeypatch.setattr(grid, "send", lambda content, buffers=None: sent.append((content, list(buffers))))
    states = [State.PENDING] * 10_000
    assert grid.update(states) == 10_000
    states[17] = states[9_999] = State.RUNNING
    assert grid.update(states) == 2
    assert grid.update(states) == 0
    assert [(content["kind"], [len(buffer) for buffer in buffers]) for content, buffers in sent] == [("all", [10_000]), ("some", [8, 2])]
    assert int.from_bytes(sent[-1][1][0][4:8], "little") == 9_999
    grid.update([State.COMPLETED] * 10_000)
    assert [len(buffer) for buffer in sent[-1][1]] == [10_000]
    grid._handle_custom_msg({"kind": "ask"}, [])  # another browser, or this one anew
    assert sent[-1] == sent[-2]
    grid.chosen = 5
    assert chosen == [5]


def test_a_front_end_that_asks_while_something_changes_is_told_the_change_last(monkeypatch):
    grid, pane = TaskGrid(lambda _: None), LogPane()
    states = [State.PENDING] * 100
    grid.update(states)
    pane.put("log", "begin")
    changed = [State.RUNNING, *states[1:]]
    for widget, change in ((grid, lambda: grid.update(changed)), (pane, lambda: pane.put("log", "begin\nend"))):
        sent, asked, go = [], threading.Event(), threading.Event()

        def send(content, buffers=None, sent=sent, asked=asked, go=go):
            if content["kind"] == "all":
                asked.set()
                go.wait(240)
            sent.append(content["kind"])

        monkeypatch.setattr(widget, "send", send)
        threads = [threading.Thread(target=widget._handle_custom_msg, args=({"kind": "ask"}, [])), threading.Thread(target=change)]
        threads[0].start()
        assert asked.wait(240)
        threads[1].start()
        threads[1].join(0.3)
        go.set()
        for thread in threads:
            thread.join()
        assert sent == ["all", {grid: "some", pane: "more"}[widget]]


# ---- a log ---------------------------------------------------------------------------------------


def test_a_log_is_shown_as_a_terminal_leaves_it():
    assert plain("\x1b[32mgreen\x1b[0m\r\n 1%\r 50%\r100%\nnext\x1b]0;title\x07\r") == "green\n100%\nnext"


def test_of_a_growing_log_what_is_new_is_sent(monkeypatch):
    pane = LogPane()
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(pane, "send", sent.append)
    pane.put("log of trial 1", "🎉 begin\n 1%")
    pane.put("log of trial 1", "🎉 begin\n 1%")
    pane.put("log of trial 1", "🎉 begin\n 1%\r 2%\nend")
    assert sent == [
        {"kind": "all", "text": "🎉 begin\n 1%"},
        {"kind": "more", "keep": 10, "text": "2%\nend"},  # JavaScript counts the first sign as two
    ]
    pane.put("log of trial 2", "other")
    assert sent[-1] == {"kind": "all", "text": "other"}


# ---- what one does with it -----------------------------------------------------------------------


def test_a_failed_trial_is_chosen_read_and_run_again_once(local: Cluster, program, widgets) -> None:
    run = local.launch(Sweep(program(TRAIN), {"n": [0, 1, 2, 3]}), time="0:10:00")
    view = shown(run)
    assert view._retry.disabled
    view._number.value = 1
    wait_until(lambda: "trial" in said(view))
    Path("go").touch()
    wait_until(lambda: view._retry.description == "Retry 2 failed")
    wait_until(lambda: "the data is not there" in said(view))
    if widgets == "core":
        assert "&lt;b&gt;trial&lt;/b&gt; 1" in view._trial.pane.value
        assert "<svg" in view._plain_grid.value
    wait_until(lambda: "FAILED" in view._trial._details.value)
    assert "n=1" in view._trial._details.value
    wait_until(lambda: view._trial._looker is None)  # nothing more comes
    Path("mended").touch()
    view._retry.click()
    wait_until(lambda: view._question.children)
    agree = view._question.children[1].children[0]
    assert agree.description == "Retry 2 as planned"
    agree.click(), agree.click()
    view._retry.click()
    wait_until(lambda: run.counts() == {State.COMPLETED: 4})
    wait_until(lambda: view._retry.description == "Retry failed" and view._retry.disabled)
    assert sorted(attempt.number for attempt in run.refresh()) == [1, 1, 2, 2], "once each"
    # the chosen trial shows its last attempt, and the one before can be chosen
    wait_until(lambda: "done" in said(view))
    attempts = (("1: FAILED", 1), ("2: COMPLETED", 2))
    wait_until(lambda: (view._trial._attempts.options, view._trial._attempts.value) == (attempts, 2))
    view._trial._attempts.value = 1
    wait_until(lambda: "the data is not there" in said(view))
    assert "FAILED" in view._trial._details.value
    wait_until(lambda: not view.is_live)
    assert "4 COMPLETED" in view._output.bundle["text/plain"]
    assert view._cancel.disabled
    view.close()


def said(view: RunView) -> str:
    """Return what the log of the chosen trial shows."""
    pane = view._trial.pane
    return pane._text if isinstance(pane, LogPane) else pane.value


def test_ending_trials_is_asked_first_and_done_once(local: Cluster, program, widgets, monkeypatch) -> None:
    run = local.launch(Sweep(program(TRAIN), {"n": [0, 2, 4]}), time="0:10:00")
    view = shown(run)
    ended, cancel = [], run.cancel
    monkeypatch.setattr(run, "cancel", lambda trials=None: [ended.append(trials), cancel(trials)])
    view._cancel.click()
    agree, leave = view._question.children[1].children
    assert agree.description == "Cancel 3 trials"
    leave.click()
    assert not view._question.children
    view._number.value = 1
    view._trial.cancel.click()
    agree, _ = view._question.children[1].children
    assert agree.description == "Cancel 1 trial"
    agree.click(), agree.click()
    wait_until(lambda: run.counts().get(State.CANCELLED) == 1)
    wait_until(lambda: view._trial.cancel.disabled and not view._cancel.disabled)
    view._cancel.click()
    view._question.children[1].children[0].click()
    wait_until(lambda: view._cancel.disabled and run.is_finished)
    assert ended == [[1], None]
    # by hand it is asked also when it is over
    refreshed = []
    monkeypatch.setattr(run, "refresh", lambda **_: refreshed.append(1))
    view._refresh.click()
    wait_until(lambda: refreshed and not view._refresh.disabled)
    view.close()


def test_what_goes_wrong_while_something_is_done_is_told_and_can_be_tried_again(local: Cluster, program, widgets, monkeypatch) -> None:
    run = local.launch(Sweep(program(TRAIN), {"n": [0]}), time="0:10:00")
    view = shown(run)

    def broken(trials: object = None) -> None:
        raise RuntimeError("it <broke>")

    monkeypatch.setattr(run, "cancel", broken)
    view._cancel.click()
    view._question.children[1].children[0].click()
    wait_until(lambda: "RuntimeError: it <broke>" in view.status.words)
    assert "in broken" in view.status.html()
    assert "<broke>" not in view.status.html()
    wait_until(lambda: not view._cancel.disabled)
    view.close()


# ---- what stays ----------------------------------------------------------------------------------


def execute(*cells: str, widgets: str = "all") -> nbformat.NotebookNode:
    first = f"import os\nos.environ['NEXA_WIDGETS'] = {widgets!r}\n%load_ext nexa_sdk"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (first, *cells)])
    NotebookClient(notebook, kernel_name="python3", timeout=500).execute()
    del notebook.cells[0]
    return notebook


def test_a_cell_that_runs_again_in_another_kernel_finds_its_run_and_shows_it(local: Cluster, program) -> None:
    program(TRAIN)
    source = "from nexa_sdk import Cluster, Sweep\nimport sys\n"
    launch = f"{source}run = Cluster('local').launch(Sweep([sys.executable, 'train.py'], {{'n': [0, 2]}}), time='0:02:00')\nrun"
    ends = "open('go', 'w').close()\nrun.wait(progress=False).id"
    first = execute(launch, "run.id")
    second = execute(launch, ends, "from nexa_sdk.notebook.view import open_views\n[view.is_live for view in open_views()]")
    assert len(Journal().run_ids()) == 1, "nothing was launched anew"
    assert first.cells[1].outputs[0]["data"]["text/plain"] == second.cells[1].outputs[-1]["data"]["text/plain"]
    told, shown, saved = second.cells[0].outputs
    assert "Launched nothing" in told["text"]
    assert "application/vnd.jupyter.widget-view+json" in shown["data"]
    assert "2 COMPLETED" in saved["data"]["text/plain"]
    assert "<svg" in saved["data"]["text/html"]
    assert "<script" not in saved["data"]["text/html"]
    assert second.cells[2].outputs[0]["data"]["text/plain"] == "[False]"
    assert len(nbformat.writes(second)) < 150_000, "the saved notebook stays small"


# ---- for long ------------------------------------------------------------------------------------


class Fast(Clock):
    """A clock on which an hour is some seconds."""

    def __init__(self, speed: float) -> None:
        self.speed = speed

    def now(self) -> float:
        return time.monotonic() * self.speed

    def wait_for(self, condition: threading.Condition, holds, seconds: float) -> None:
        condition.wait_for(holds, timeout=seconds / self.speed)


class Usage:
    """What of this process could grow; threads that were there before are others'."""

    def __init__(self, others: Collection[threading.Thread] = ()) -> None:
        gc.collect()
        alive = [thread for thread in threading.enumerate() if thread not in others]
        self.threads = sorted(thread.name for thread in alive if thread.name in ("nexa-watcher", "nexa-look"))
        self.widgets = len(ipywidgets.widgets.widget._instances)
        self.objects = len(gc.get_objects())
        looks = [(len(os.listdir("/proc/self/fd")), tracemalloc.get_traced_memory()[0]) for _ in range(50) if not time.sleep(0.01)]
        self.files, self.bytes = map(min, zip(*looks, strict=True))  # what is there for a moment left aside


def of_all_kinds(run, local: Cluster, clock: Clock) -> list[Any]:
    draft = Draft(command="python train.py", parameters=[Parameter("n", "values", "1, 2")], job={"time": "0:01:00"})
    views: list[Any] = []
    for _ in range(2):
        views += [RunView(run, clock=clock), RunsView(clock=clock), ClusterView(local, clock=clock)]
        views += [UtilizationView(OfRun(run), clock=clock), SweepView(draft, clock=clock)]
    return [seen(view) for view in views]


@pytest.mark.parametrize("kinds", ["runs", "all kinds"])
def test_ten_views_for_an_hour_grow_by_nothing_and_leave_nothing(local: Cluster, program, widgets, kinds, request) -> None:
    clock, others = Fast(speed=600), threading.enumerate()
    tracemalloc.start()
    request.addfinalizer(tracemalloc.stop)
    request.addfinalizer(lambda: [view.close() for view in open_views()])
    local.__dict__["watcher"] = watcher = Watcher(local.scheduler, clock)
    run = local.launch(Sweep(program(TRAIN), {"n": list(range(0, 20, 2))}), time="0:10:00", throttle=2, telemetry=1.0)
    before = Usage(others)
    polls, poll = [], local.scheduler.poll
    local.scheduler.poll = lambda arrays: [polls.append(len(arrays)), poll(arrays)][1]
    views = [shown(run, clock=clock) for _ in range(10)] if kinds == "runs" else of_all_kinds(run, local, clock)
    run_views = [view for view in views if isinstance(view, RunView)]
    for view in run_views:
        view._choose(0)  # a log that is followed
    wait_until(lambda: all(view._trial._looker is not None for view in run_views))
    wait_until(lambda: all(view.plan is not None for view in views if isinstance(view, SweepView)))
    hour = clock.now() + 1200
    wait_until(lambda: clock.now() > hour)
    late = Usage(others)
    # Of all kinds something may be made when it is first needed, in one hour; what leaks comes in each.
    for _ in range(1 if kinds == "runs" else 3):
        early, asked, hour = late, len(polls), clock.now() + 3600
        wait_until(lambda hour=hour, asked=asked: clock.now() > hour and len(polls) > asked + 20)  # it goes on all the time
        late = Usage(others)
        if late.objects < early.objects * 1.01 + 500 and late.bytes < early.bytes + 500_000:
            break
    assert set(polls) == {1}, "one question for all"
    lookers = 10 if kinds == "runs" else 8  # a log each; of the other kinds all but the forms, and the logs of two runs
    assert early.threads == late.threads == ["nexa-look"] * lookers + ["nexa-watcher"]
    assert len(watcher._subscriptions) == len(run_views)
    assert late.files <= early.files
    assert late.widgets == early.widgets
    assert late.objects < early.objects * 1.01 + 500
    assert late.bytes < early.bytes + 500_000
    gone = [weakref.ref(view) for view in views]
    for view in views:
        view.close()
    del view
    views.clear()
    run_views.clear()
    Path("go").touch()
    wait_until(lambda: not open_views())
    wait_until(lambda: Usage(others).threads == before.threads)
    assert watcher._subscriptions == []
    assert Usage(others).widgets == before.widgets
    wait_until(lambda: gc.collect() is not None and not any(found() for found in gone))

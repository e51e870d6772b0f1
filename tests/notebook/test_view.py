"""What every view does, without a browser: it stops, it holds nothing, it does things once, and tells what goes wrong."""

from __future__ import annotations

import gc
import threading
import weakref

import ipywidgets
import pytest
from until import wait_until

from nexa_sdk.errors import ClusterError
from nexa_sdk.notebook import front_end
from nexa_sdk.notebook.view import Looker, View, _weakly


class Counter(View):
    title = "counting"

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.count = 0
        self.trouble: Exception | None = None

    def look(self) -> bool:
        if self.trouble is not None:
            raise self.trouble
        self.count += 1
        return True

    def listen(self, heard):
        return Looker(heard, 0.01, self.clock)

    def html(self) -> str:
        return f"<b>{self.count}</b>"

    def text(self) -> str:
        return str(self.count)


class Shown:
    def __init__(self) -> None:
        self.bundles: list[dict[str, str]] = []
        self.is_shown = False

    def show(self, bundle) -> None:
        self.bundles.append(bundle)
        self.is_shown = True


@pytest.fixture
def counter(monkeypatch):
    monkeypatch.setattr(front_end, "in_notebook", lambda: True)
    monkeypatch.setattr(front_end, "widgets", lambda: "no")

    def make() -> Counter:
        view = Counter()
        view._output = Shown()
        return view

    return make


def lookers() -> int:
    return sum(thread.name == "nexa-look" for thread in threading.enumerate())


def test_it_stops_when_it_is_closed(counter):
    view = counter().show()
    wait_until(lambda: view.count > 3)
    assert view.is_live
    view.close()
    wait_until(lambda: not lookers())
    assert int(view._output.bundles[-1]["text/plain"]) in (view.count - 1, view.count)  # one look may have been under way
    assert not view.is_live


def test_it_stops_when_nobody_holds_it():
    view = Counter()
    gone = weakref.ref(view)
    source = view.listen(_weakly(view))
    weakref.finalize(view, source.close).atexit = False
    wait_until(lambda: gone().count > 3)
    del view
    wait_until(lambda: gc.collect() is not None and gone() is None)
    wait_until(lambda: not lookers())


@pytest.mark.parametrize("has_widgets", [False, True])
def test_a_cluster_that_is_away_is_told_with_the_time_and_taken_back(counter, has_widgets):
    view = counter()
    view.widget = ipywidgets.VBox() if has_widgets else None
    view.show()
    view.trouble = ClusterError("no route to host")
    wait_until(lambda: "not up to date since" in view._output.bundles[-1]["text/plain"])
    assert "no route to host" in view._output.bundles[-1]["text/html"]
    view.trouble = None
    wait_until(lambda: not view.status.words)
    view.close()


def test_what_a_callback_raises_is_told_with_its_traceback(counter):
    view = counter()
    view.guard(lambda: 1 / 0)()
    assert view.status.words == "ZeroDivisionError: division by zero"
    assert "in guarded" in view.status.html()
    view.guard(lambda: print("<script>", undefined))()  # noqa: F821
    assert "<script>" not in view.status.html()


def test_what_takes_long_is_done_once_at_a_time(counter):
    view, go, done = counter(), threading.Event(), []
    assert view.work("launch", lambda: go.wait(240), done.append)
    assert not view.work("launch", lambda: go.wait(240), done.append)
    go.set()
    wait_until(lambda: done == [True])
    wait_until(lambda: view.work("launch", lambda: 2, done.append))
    wait_until(lambda: done == [True, 2])


def test_of_what_is_typed_fast_only_the_newest_answer_is_used(counter):
    view, go, done = counter(), threading.Event(), []
    view.newest("preview", lambda: go.wait(240) and 1, done.append)
    for number in range(2, 50):
        view.newest("preview", lambda number=number: number, done.append)
    go.set()
    wait_until(lambda: done == [49])
    view.newest("preview", lambda: 50, done.append)
    wait_until(lambda: done == [49, 50])


def test_in_a_terminal_it_is_printed(capsys):
    Counter().show()
    assert capsys.readouterr().out == "1\n"


# ---- parts -----------------------------------------------------------------------------------------


def test_a_part_that_is_renewed_while_it_is_made_is_made_again():
    from nexa_sdk.notebook.widgets.sections import Sections

    view, going, made = Counter(), [threading.Event(), threading.Event()], []

    def make() -> ipywidgets.Label:
        made.append(ipywidgets.Label(f"made {len(made)}"))
        going[len(made) - 1].wait(240)
        return made[-1]

    sections = Sections(view, {"first": ipywidgets.Label(), "second": make})
    sections.choice.value = "second"
    wait_until(lambda: len(made) == 1)
    sections.renew("second")
    assert sections._place.children == (sections._reading,)
    for gate in going:
        gate.set()
    wait_until(lambda: len(made) == 2 and sections._place.children == (made[1],))
    assert made[0].comm is None, "what is not shown is closed"
    sections.close()


def test_what_ends_while_it_is_drawn_is_drawn_at_its_end(counter):
    class Ending(Counter):
        over = False

        @property
        def is_over(self) -> bool:
            return self.over

        def html(self) -> str:
            told, self.over = f"<b>over: {self.over}</b>", True  # somebody else sees to the end
            return told

    view = Ending()
    view._output = Shown()
    view.show()
    assert "over: True" in view._output.bundles[-1]["text/html"]
    view.close()


def test_words_of_one_act_are_not_taken_away_by_the_end_of_another():
    view, gate = Counter(), threading.Event()
    view.work("ask", lambda: gate.wait(240), words="asking")
    view.work("launch", lambda: 1 / 0, words="launching")
    wait_until(lambda: "ZeroDivisionError" in view.status.words)
    gate.set()
    wait_until(lambda: "ask" not in view._working)
    assert "ZeroDivisionError" in view.status.words


def test_what_went_wrong_can_be_read_on_dark_as_on_light(counter):
    from nexa_sdk.notebook.widgets.field import Field

    field = Field("Walltime", ipywidgets.Text())
    field.say("no time")
    view = counter()
    view.status.tell(ClusterError("away"))
    for words in (field._words.value, view.status.html()):
        assert "color-mix(in srgb, var(--jp-error-color0" in words, "JupyterLab's red alone has 3.8:1 on its dark ground"

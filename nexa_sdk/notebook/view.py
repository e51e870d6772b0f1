"""View: what a person sees of an object, made in the same way for each kind.

A kind of view is one file in ``views/``: a class that says how its object is asked (`look`), and how
it is shown as HTML, as text and, where the front end has them, as widgets (`build`, `draw`). Everything
else is here:

- **Two outputs.** The widgets, for a person who works; and plain HTML, which is updated by its
  display id, so that the saved notebook shows the last state on any page. Where the widgets live,
  the HTML hides; where they are dead (another kernel, a static page), only the HTML is seen.
- **One way to update.** `listen` says who calls when there is news: the cluster's poller, or a
  thread of the view's own. It holds the view by a weak reference.
- **An end.** A view stops when its object can't change any more, when it is closed, when its cell is
  executed again, and when nobody holds it.
- **Nothing is swallowed.** What a callback or a thread raises stands in the status line, with a way to
  see the traceback.
"""

from __future__ import annotations

import html
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from nexa_sdk.errors import ClusterError
from nexa_sdk.notebook import front_end
from nexa_sdk.notebook.output import Output
from nexa_sdk.notebook.status_line import StatusLine
from nexa_sdk.scheduling.watcher import Clock

if TYPE_CHECKING:
    import ipywidgets

__all__ = ["Closes", "Looker", "View", "open_views"]

SOON = 0.3  # seconds between two updates at least: a front end draws all of an output anew
SAVED = 5.0  # seconds between two updates of the HTML that hides behind widgets
SHARE = 0.1  # of the time at most is spent on looking and drawing
SLOWEST = 60.0  # seconds between two looks while nothing changes


class Closes(Protocol):
    """What can be closed."""

    def close(self) -> None: ...


class View:
    """What a person sees of an object.

    Attributes
    ----------
    status : StatusLine
        Where it says what went wrong.
    widget : ipywidgets.VBox or None
        What it is made of, once shown where the front end has widgets.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.id = uuid.uuid4().hex[:8]
        self.clock = clock or Clock()
        self.status = StatusLine()
        self.widget: Any = None
        self.lock = threading.RLock()
        """Holds while it is drawn: callbacks and threads share the widgets."""
        self.execution_count = 0
        self._output, self._widgets = Output(), Output()
        self._source: Closes | None = None
        self._saved_at, self._is_unsaved = -1e9, False
        self._working: set[str] = set()
        self._wanted: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {}
        self._complaints: dict[str, str] = {}  # what was told of the newest of each name, until one goes well
        self._is_closed = False

    # ---- what a kind of view says --------------------------------------------------------------

    @property
    def title(self) -> str:
        """What it is a view of, in a few words."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether nothing can change any more."""
        return False

    def look(self) -> bool:
        """Ask for what is new, from any thread; whether there was anything."""
        return False

    def build(self) -> ipywidgets.Widget:
        """Make the widgets, once."""
        raise NotImplementedError

    def draw(self) -> None:
        """Put what is known into the widgets."""

    def html(self) -> str:
        """Return the last state as HTML: tables and inline SVG, which any page shows."""
        raise NotImplementedError

    def text(self) -> str:
        """Return the last state as text."""
        raise NotImplementedError

    def listen(self, heard: Callable[[], bool]) -> Closes | None:
        """Have `heard` called when there may be news, until what is returned is closed.

        `heard` returns whether there was anything new.
        """
        return None

    def stays_off(self, widget: Any) -> bool:
        """Whether what could not be used while something was done still can't, for a reason of its own."""
        return False

    # ---- showing -------------------------------------------------------------------------------

    def show(self) -> Self:
        """Show it in the cell that is executed, and keep it up to date; in a terminal, print it once.

        Raises
        ------
        InvalidInput
            There is nothing to be seen. A cluster that does not answer is no error: the status line says so.
        """
        try:
            self.look()
        except ClusterError as error:
            self.status.tell_stale(error)
        was_over = self.is_over
        if not front_end.in_notebook():
            self.print()
            return self
        _register(self)
        if front_end.widgets() != "no":
            self._show_widgets()
        self._save()
        self._follow_from(was_over)
        return self

    def embed(self) -> ipywidgets.Widget:
        """Return its widgets, live, to be a part of another view's; that one closes it.

        Raises
        ------
        InvalidInput
            There is nothing to be seen.
        """
        try:
            self.look()
        except ClusterError as error:
            self.status.tell_stale(error)
        import ipywidgets

        was_over = self.is_over
        inner = self.build()
        self.draw()
        self.widget = ipywidgets.VBox([inner, self.status.widget])
        self._follow_from(was_over)
        return self.widget

    def _follow_from(self, was_over: bool) -> None:
        """Follow; what others saw to its end while it was drawn is drawn once more."""
        self.follow()
        if not was_over and self.is_over:
            self._heard()

    def follow(self) -> None:
        """Keep it up to date from now on, if anything can change; after what was done to its object that may be so again."""
        with self.lock:
            if self._source is not None or self.is_over or self._is_closed:
                return
            self._source = source = self.listen(_weakly(self))
        if source is not None:
            weakref.finalize(self, source.close).atexit = False

    def print(self) -> None:
        """Show it in a terminal."""
        print("\n".join(filter(None, [self.text(), self.status.words])))

    def _show_widgets(self) -> None:
        import ipywidgets

        inner = self.build()
        self.draw()
        # the saved HTML hides as long as these live; and these, once their kernel is gone
        mine, gone = f".nexa-view-{self.id}", ".jupyter-widgets-disconnected"
        rules = f"body:has({mine}:not({gone})) .nexa-saved-{self.id}, {mine}{gone} {{display:none}}"
        style = ipywidgets.HTML(f"<style>{rules}</style>", layout=ipywidgets.Layout(display="none"))
        self.widget = ipywidgets.VBox([style, inner, self.status.widget])
        self.widget.add_class(f"nexa-view-{self.id}")
        self.widget.observe(self._widget_closed, "comm")
        shown = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        self._widgets.show({"application/vnd.jupyter.widget-view+json": shown, **_NOTHING})

    def _widget_closed(self, change: Mapping[str, Any]) -> None:
        if change["new"] is None:
            self.close()

    def bundle(self) -> dict[str, str]:
        """Return the last state as HTML and as text."""
        status = f"<div>{html.escape(self.status.words)}</div>" if self.status.words else ""
        # A saved notebook that is opened again has no widgets: what would be said of that, in one place or another, hides, too.
        lives, saved = f":has(.nexa-view-{self.id})", f":has(+ .jp-OutputArea-child .nexa-saved-{self.id})"
        dead = f".jp-OutputArea-child:not({lives}){saved}{{display:none}}"
        style = f"<style>{dead}</style>" if self.widget is not None else ""
        return {
            "text/html": f'<div class="nexa-saved-{self.id}">{style}{self.html()}{status}</div>',
            "text/plain": "\n".join(filter(None, [self.text(), self.status.words])),
        }

    def _save(self) -> None:
        self._saved_at, self._is_unsaved = self.clock.now(), False
        self._output.show(self.bundle())

    def _heard(self) -> bool:
        """Update, from whatever thread; return whether there was anything new."""
        if self._is_closed:
            return False
        before = self.status.words
        is_new = False
        try:
            is_new = self.look()
            self.status.clear_stale()
        except Exception as error:  # noqa: BLE001  no front end shows what a thread raises: the line under the view does
            self.status.tell_stale(error)
        is_over = self.is_over
        with self.lock:
            if self._is_closed:
                return False
            is_news = is_new or is_over or self.status.words != before
            self._is_unsaved |= is_news
            if is_news and self.widget is not None:
                self._draw()
            pause = SOON if self.widget is None else SAVED
            if self._output.is_shown and self._is_unsaved and (is_over or self.clock.now() - self._saved_at >= pause):
                self._save()
            if is_over and self.is_over:  # else something was done to its object meanwhile
                self._stop()
        return is_news or (self._is_unsaved and self._output.is_shown)

    def _draw(self) -> None:
        """Draw; what goes wrong is told until the next look."""
        try:
            self.draw()
        except Exception as error:  # noqa: BLE001  no front end shows what a thread raises
            self.status.tell_stale(error)

    # ---- doing ---------------------------------------------------------------------------------

    def guard(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Return a callback of which the status line tells what goes wrong; it has the lock, and is to be short."""

        def guarded(*args: Any) -> None:
            try:
                with self.lock:
                    callback(*args)
            except Exception as error:  # noqa: BLE001  a front end shows it nowhere
                self.status.tell(error)

        return guarded

    def work(
        self, name: str, act: Callable[[], Any], then: Callable[[Any], None] | None = None, *, words: str = "", off: Iterable[Any] = ()
    ) -> bool:
        """Do in a thread what takes long, once at a time.

        Parameters
        ----------
        name : str
            What is done; while it is, it is not begun again.
        act : callable
        then : callable, optional
            Takes what `act` returned, and may touch the widgets.
        words : str, optional
            Stand in the status line meanwhile.
        off : iterable of widgets
            Can't be used meanwhile.

        Returns
        -------
        bool
            Whether it was begun.
        """
        with self.lock:
            if name in self._working or self._is_closed:
                return False
            self._working.add(name)
            switched = [widget for widget in off if not widget.disabled]
            for widget in switched:
                widget.disabled = True
            self.status.say(words)

        def do() -> None:
            result, wrong = None, None
            try:
                result = act()
            except Exception as error:  # noqa: BLE001  no front end shows what a thread raises
                wrong = error
            with self.lock:
                self._working.discard(name)
                for widget in switched:
                    widget.disabled = self.stays_off(widget)
                if wrong is not None:
                    self.status.tell(wrong)
                    return
                if words and self.status.words == words:
                    self.status.clear()
                if then is not None and not self._is_closed:
                    self.guard(then)(result)  # the last word, also on what can be used

        threading.Thread(target=do, name=f"nexa-{name}", daemon=True).start()
        return True

    def newest(self, name: str, act: Callable[[], Any], then: Callable[[Any], None], *, after: float = 0.0) -> None:
        """Do in a thread what a later call of the same name makes void, as a preview does.

        One is under way at a time; of those that came meanwhile the last is done next, and only the
        newest answer is given to `then`. What goes wrong is told until one goes well.

        Parameters
        ----------
        after : float
            Seconds without a newer call until it begins: who types is not held up by it.
        """
        with self.lock:
            self._wanted[name] = act, then
            if name in self._working:
                return
            self._working.add(name)
        threading.Thread(target=self._catch_up, args=(name, after), name=f"nexa-{name}", daemon=True).start()

    def _catch_up(self, name: str, after: float) -> None:
        while True:
            wanted = self._wanted.get(name)
            while after and wanted is not None:
                time.sleep(after)
                newer = self._wanted.get(name)
                if newer is wanted:
                    break
                wanted = newer
            with self.lock:
                if name not in self._wanted or self._is_closed:
                    self._working.discard(name)
                    return
                act, then = self._wanted.pop(name)
            try:
                result = act()
                with self.lock:
                    if name not in self._wanted and not self._is_closed:
                        then(result)
                        if self._complaints.pop(name, None) == self.status.words:
                            self.status.clear()
            except Exception as error:  # noqa: BLE001  no front end shows what a thread raises
                with self.lock:
                    self.status.tell(error)
                    self._complaints[name] = self.status.words

    # ---- ending --------------------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """Whether it is kept up to date."""
        return self._source is not None

    def close(self) -> None:
        """Stop updating, and take the widgets away; the last state stays, as HTML."""
        with self.lock:
            if self._is_closed:
                return
            self._is_closed = True
            widget = self.widget
        self._stop()
        _forget(self)
        if self._output.is_shown:
            self._save()
        if self._widgets.is_shown:
            self._widgets.show(_NOTHING)
        if widget is not None:
            close_widgets(widget)

    def _stop(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.title}{'' if self.is_live else ', ended'}>"

    def _ipython_display_(self) -> None:
        """Show nothing more as a cell's last value where it is shown already."""
        if not self._output.is_shown and not self._is_closed:
            self.show()


def close_widgets(widget: Any) -> None:
    """Close a widget with all that it holds; its layout and its style too, which ipywidgets would keep as long as the kernel lives."""
    for child in getattr(widget, "children", ()):
        close_widgets(child)
    looks = [getattr(getattr(widget, name, None), "close", None) for name in ("layout", "style")]
    widget.close()
    for close in filter(None, looks):  # of other libraries' widgets they may be no widgets
        close()


class Looker:
    """A thread that has a view look, until closed: seldom while nothing changes.

    Parameters
    ----------
    heard : callable
        Looks, and returns whether there was anything new.
    every, slowest : float
        Seconds between two looks, at least and at most.
    """

    def __init__(self, heard: Callable[[], bool], every: float, clock: Clock, *, slowest: float = SLOWEST) -> None:
        self._heard = heard
        self._every = every
        self._slowest = max(slowest, every)
        self._clock = clock
        self._condition = threading.Condition()
        self._is_closed = False
        threading.Thread(target=self._loop, name="nexa-look", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    def _loop(self) -> None:
        pause = self._every
        while True:
            with self._condition:
                self._clock.wait_for(self._condition, lambda: self._is_closed, pause)
                if self._is_closed:
                    return
            began = self._clock.now()
            is_new = self._heard()
            took = self._clock.now() - began
            pause = max(self._every, took * (1 - SHARE) / SHARE) if is_new else min(self._slowest, pause * 1.5)


def _weakly(view: View) -> Callable[[], bool]:
    found = weakref.ref(view)

    def heard() -> bool:
        alive = found()
        return alive is not None and alive._heard()

    return heard


# ---- which there are -----------------------------------------------------------------------------

_NOTHING = {"text/html": "", "text/plain": ""}
_open: list[tuple[str | None, View]] = []  # as long as they are shown
_opening = threading.Lock()


def open_views() -> list[View]:
    """Return the views that are shown."""
    with _opening:
        return [view for _, view in _open]


def _register(view: View) -> None:
    """Hold a view, and close those that its cell showed when it was executed before."""
    cell, count = front_end.cell(), front_end.execution_count()
    with _opening:
        view.execution_count = count
        before = [old for place, old in _open if place is not None and place == cell and old.execution_count != count]
        # what is over and has no widgets can't change any more
        _open[:] = [(place, old) for place, old in _open if old not in before and (old.is_live or old.widget is not None)]
        _open.append((cell, view))
    for old in before:
        old.close()


def _forget(view: View) -> None:
    with _opening:
        _open[:] = [(place, old) for place, old in _open if old is not view]

"""TrialWidget: one trial of a run, with what it was given, how each attempt went, and its log as it grows."""

from __future__ import annotations

import html
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets

from nexa_sdk import display
from nexa_sdk.notebook import run_picture
from nexa_sdk.notebook.view import Looker
from nexa_sdk.notebook.widgets.log import log_pane
from nexa_sdk.states import State

if TYPE_CHECKING:
    from nexa_sdk.attempts import Attempt
    from nexa_sdk.log_tail import LogTail
    from nexa_sdk.notebook.view import View
    from nexa_sdk.run import Run

__all__ = ["TrialWidget"]

FOLLOWED = 1.0, 5.0  # seconds between two looks at a log: while it grows, and where nothing comes


class TrialWidget(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """What is known of one trial; nothing until one is chosen.

    Parameters
    ----------
    view : View
        Whose status line tells what goes wrong.
    run : Run
    retry, cancel : callable
        Ask whether the trial is to be run again, or ended.

    Attributes
    ----------
    trial : int or None
        Which one.
    """

    def __init__(self, view: View, run: Run, *, retry: Callable[[int], None], cancel: Callable[[int], None]) -> None:
        self.trial: int | None = None
        self._view, self._run = view, run
        self._tail: LogTail | None = None
        self._is_whole = False  # the log: its attempt has ended, and it was read since
        self._looker: Looker | None = None
        self._wanted: int | None = None  # the attempt; unless chosen, the last
        self._is_offering = False
        self._details = ipywidgets.HTML()
        self._attempts = ipywidgets.Dropdown(description="Attempt", layout={"width": "22em", "max_width": "100%", "display": "none"})
        self._attempts.observe(view.guard(lambda change: self._choose_attempt(change["new"])), "value")
        self.retry = ipywidgets.Button(description="Retry this trial", icon="repeat", layout={"width": "auto"})
        self.cancel = ipywidgets.Button(description="Cancel this trial", icon="stop", layout={"width": "auto"})
        self.retry.on_click(view.guard(lambda _: None if self.trial is None else retry(self.trial)))
        self.cancel.on_click(view.guard(lambda _: None if self.trial is None else cancel(self.trial)))
        self.pane = log_pane()
        buttons = ipywidgets.HBox([self.retry, self.cancel, self._attempts], layout={"flex_flow": "row wrap"})
        super().__init__([self._details, buttons, self.pane], layout={"display": "none"})

    def choose(self, trial: int) -> None:
        """Show a trial, and the log of its last attempt."""
        self.trial, self._wanted = trial, None
        self.layout.display = "flex"
        self._begin()
        self.draw()

    def close(self) -> None:
        """Follow the log no further."""
        self._unfollow()
        super().close()

    # ---- how it is -----------------------------------------------------------------------------

    def draw(self) -> None:
        """Show what is known now."""
        of_trial = [attempt for attempt in self._run.known_attempts if attempt.trial == self.trial]
        if not of_trial:
            return
        last = of_trial[-1]
        shown = next((attempt for attempt in of_trial if attempt.number == self._wanted), last)
        self._offer(of_trial, shown)
        told = _details(self._run, shown)
        if self._details.value != told:
            self._details.value = told
        self.retry.disabled = not last.status.state.is_failure
        self.cancel.disabled = last.status.state.is_terminal
        if self._tail is not None and self._tail.attempt.name != shown.name:  # it was run again
            self._begin()
        self._read(shown)

    def _offer(self, attempts: list[Attempt], shown: Attempt) -> None:
        names = [(f"{attempt.number}: {attempt.status.state.value}", attempt.number) for attempt in attempts]
        if list(self._attempts.options) != names:
            self._is_offering = True  # with new options a dropdown chooses the first by itself
            self._attempts.options = names
            self._attempts.value = shown.number
            self._is_offering = False
        self._attempts.layout.display = "" if len(names) > 1 else "none"

    def _choose_attempt(self, number: int) -> None:
        if self._is_offering:
            return
        last = max((attempt.number for attempt in self._run.known_attempts if attempt.trial == self.trial), default=1)
        wanted = None if number == last else number  # the last one stays the last when there is another
        if wanted == self._wanted:
            return
        self._wanted = wanted
        self._begin()
        self.draw()

    # ---- its log -------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._unfollow()
        self._tail, self._is_whole = None, False
        self.pane.put(f"Log of trial {self.trial}", "reading …")

    def _read(self, attempt: Attempt) -> None:
        """Have the log read: once of what can't grow, else again and again."""
        has_ended = attempt.status.state.is_terminal
        if self._is_whole or (self._looker is not None and not has_ended):
            return

        def read() -> tuple[LogTail, Attempt]:
            tail = self._tail
            if tail is None or tail.attempt.name != attempt.name:
                tail = self._run.log_tail(attempt.trial, attempt=attempt.number)
            tail.read_on(attempt)
            return tail, attempt

        self._view.newest("log", read, self._put)
        if has_ended:
            self._unfollow()

    def _put(self, read: tuple[LogTail, Attempt]) -> None:
        tail, attempt = read
        if attempt.trial != self.trial:
            return
        self._tail = tail
        self._show()
        state = attempt.status.state
        self._is_whole = state.is_terminal
        if not self._is_whole and state is not State.PENDING and self._looker is None:
            every, slowest = FOLLOWED
            self._looker = Looker(_weakly(self), every, self._view.clock, slowest=slowest)

    def _show(self) -> None:
        tail = self._tail
        if tail is None:
            return
        again = f", attempt {tail.attempt.number}" if tail.attempt.number > 1 else ""
        self.pane.put(
            f"Log of trial {self.trial}{again}", tail.text, note=f"only its end: run.logs({self.trial}) has all" if tail.is_cut else ""
        )

    def _look_on(self) -> bool:
        """Read on, in the thread that follows; whether there was anything new."""
        tail = self._tail
        if tail is None:
            return False
        try:
            is_new = tail.read_on()
        except Exception as error:  # noqa: BLE001  no front end shows what a thread raises
            self._view.status.tell_stale(error)
            return False
        if is_new:
            with self._view.lock:
                if self._tail is tail:
                    self._show()
        return is_new

    def _unfollow(self) -> None:
        looker, self._looker = self._looker, None
        if looker is not None:
            looker.close()


def _weakly(widget: TrialWidget) -> Callable[[], bool]:
    found = weakref.ref(widget)

    def look() -> bool:
        alive = found()
        return alive is not None and alive._look_on()

    return look


def _details(run: Run, attempt: Attempt) -> str:
    """Say of a trial what it is given, and how it is."""
    status = attempt.status
    given = ", ".join(f"{name}={display.cell_text(value)}" for name, value in run.sweep[attempt.trial].items())
    said = [
        "" if status.exit_code is None else f"exit code {status.exit_code}",
        run_picture.elapsed_text(attempt),
        f"on {status.node}" if status.node else "",
        f"job {attempt.job}" if attempt.job_id else "",
        f"attempt {attempt.number}" if attempt.number > 1 else "",
        " ".join(f"{name}={value}" for name, value in attempt.array.options.items()),
        status.reason,
    ]
    words = html.escape(" · ".join(filter(None, said)))
    return (
        f'<div style="line-height:1.5"><div><b>Trial {attempt.trial}</b> {display.state_badge(status.state)} {words}</div>'
        f'<div style="overflow-wrap:anywhere"><code>{html.escape(given)}</code></div></div>'
    )

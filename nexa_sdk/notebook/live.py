"""Live tables: an output that is updated by its display id, so that its last state is saved."""

from __future__ import annotations

import html
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nexa_sdk import display
from nexa_sdk.display import Markup
from nexa_sdk.errors import NexaError
from nexa_sdk.states import State

if TYPE_CHECKING:
    from nexa_sdk.attempts import Attempt
    from nexa_sdk.run import Run

__all__ = ["Progress", "View", "watch"]

SHOWN = 30  # rows of a live table; the rest is counted
EVERY = 0.3  # seconds between two updates at most: a front end redraws the whole table


def in_notebook() -> bool:
    """Whether outputs can be updated: a kernel's shell, not a terminal's."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


class _Output:
    """One output of a cell that can be updated from any thread."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, markup: str, text: str) -> None:
        from IPython.display import display as show

        bundle = {"text/html": markup, "text/plain": text}
        if self._handle is None:
            self._handle = show(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)


class View:
    """A live table of a run. It stops by itself when the run has ended, or by :meth:`close`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._output = _Output()
        self._lock = threading.Lock()
        self._shown_at = 0.0
        self._subscription: Any = None
        self._note = ""

    def start(self) -> View:
        """Show the table, and keep it up to date."""
        self.run.refresh(max_age=1.0)
        self._show()  # first, so that the output is this cell's
        if not self.run.is_finished:
            self._subscription = self.run.subscribe(self._heard)
        return self

    def close(self) -> None:
        """Stop updating; what was shown stays."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()

    def _heard(self) -> None:
        """Update, from the poller's thread; what goes wrong stands under the table."""
        try:
            self.run.refresh(max_age=5.0)
            self._note = ""
        except NexaError as error:
            self._note = f"not up to date: {error}"
        except Exception as error:  # noqa: BLE001  no front end shows what a thread raises: the line under the table does
            self._note = f"not up to date: {type(error).__name__}: {error}"
        if self.run.is_finished:
            self.close()
        elif time.monotonic() - self._shown_at < EVERY:
            return
        self._show()

    def _show(self) -> None:
        with self._lock:
            self._shown_at = time.monotonic()
            self._output.show(run_html(self.run, self._note), run_text(self.run))

    def __repr__(self) -> str:
        return f"<View of {self.run.id}{'' if self._subscription else ', ended'}>"

    def _ipython_display_(self) -> None:
        """Show nothing more when the view is a cell's last value: its table is there already."""


def watch(run: Run) -> View:
    """Show a live table of a run; see :meth:`nexa_sdk.run.Run.watch`."""
    if in_notebook():
        return View(run).start()
    run.wait(check=False)  # a terminal has one line that can be updated: the progress
    print(run_text(run))
    return View(run)


def _rows(run: Run) -> tuple[list[str], list[list[Any]], str]:
    """Return the rows worth seeing: failures first, then what runs, what waits, what is done."""
    attempts = sorted(run.last_known, key=lambda attempt: (_order(attempt), attempt.trial))
    shown = sorted(attempts[:SHOWN], key=lambda attempt: attempt.trial)
    names = list(run.sweep.parameters)
    rows = []
    for attempt in shown:
        trial = run.sweep[attempt.trial]
        status = attempt.status
        code = "" if status.exit_code is None else status.exit_code
        rows.append([attempt.trial, *(trial[name] for name in names), status.state, code, _elapsed(attempt), status.node, status.reason])
    hidden = len(attempts) - len(shown)
    return ["trial", *names, "state", "exit", "elapsed", "node", "reason"], rows, f"… and {hidden:,} more" if hidden else ""


def _order(attempt: Attempt) -> int:
    state = attempt.status.state
    if state.is_failure or state == "UNKNOWN":
        return 0
    return {"RUNNING": 1, "COMPLETED": 3}.get(state.value, 2)


def _elapsed(attempt: Attempt) -> str:
    status = attempt.status
    if status.start is None or (status.end is None and status.state.is_terminal):
        return ""
    seconds = int((status.end or time.time()) - status.start)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def run_html(run: Run, note: str = "") -> str:
    """Show a run and its trials as HTML."""
    columns, rows, more = _rows(run)
    place = columns.index("state")
    marked = [[*row[:place], Markup(display.state_badge(row[place])), *row[place + 1 :]] for row in rows]
    below = html.escape(" ".join(filter(None, [more, note])))
    return f"<div>{run._repr_html_()}{_bar(run)}{display.table(columns, marked)}<div>{below}</div></div>"


def run_text(run: Run) -> str:
    """Show a run and its trials as text."""
    return "\n".join([repr(run), *display.text_table(*_rows(run))])


_PROGRESS = {State.COMPLETED: 0, State.COMPLETING: 2, State.RUNNING: 3, State.PENDING: 4, State.UNKNOWN: 5}


def _bar(run: Run) -> str:
    """Draw the share of each state: inline SVG, which a static viewer shows as well."""
    parts, x = [], 0.0
    total = max(1, run.trial_count)
    for state, count in sorted(run.counts().items(), key=lambda item: _PROGRESS.get(item[0], 1)):
        width = 100 * count / total
        title = f"<title>{count} {state.value}</title>"
        parts.append(f'<rect x="{x:.3f}" width="{width:.3f}" height="6" style="fill:{display.colour(state)}">{title}</rect>')
        x += width
    label = html.escape(f"{run.id}: " + ", ".join(f"{count} {state.value}" for state, count in run.counts().items()))
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 100 6" preserveAspectRatio="none" '
        f'width="100%" height="6" style="display:block;height:6px;margin:.3em 0">{"".join(parts)}</svg>'
    )


class Progress:
    """The progress of a waiting cell: one updated output in a notebook, one line in a terminal."""

    def __init__(self, run: Run, *, shown: bool) -> None:
        self.run = run
        self._output = _Output() if shown and in_notebook() else None
        self._terminal = sys.stderr if shown and self._output is None and sys.stderr.isatty() else None
        self._before = ""

    def update(self, note: str = "") -> None:
        """Show how far the run is, and why it may not be up to date."""
        text = f"{self.run.id}: " + ", ".join(f"{count:,} {state.value}" for state, count in self.run.counts().items())
        text += f" (not up to date: {note})" if note else ""
        if text == self._before:
            return
        self._before = text
        if self._output is not None:
            below = f"<div>not up to date: {html.escape(note)}</div>" if note else ""
            self._output.show(f"<div>{self.run._repr_html_()}{_bar(self.run)}{below}</div>", text)
        elif self._terminal is not None:
            done = sum(count for state, count in self.run.counts().items() if state.is_terminal)
            filled = round(24 * done / max(1, self.run.trial_count))
            self._terminal.write(f"\r\x1b[K[{'#' * filled}{'.' * (24 - filled)}] {text}")
            self._terminal.flush()

    def __enter__(self) -> Self:
        self.update()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.update()
        if self._terminal is not None:
            self._terminal.write("\n")

"""What a run looks like on a page that can't be updated: a bar, a grid and a table, as HTML with inline SVG, and text."""

from __future__ import annotations

import html
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from nexa_sdk import display
from nexa_sdk.display import Markup
from nexa_sdk.states import State

if TYPE_CHECKING:
    from nexa_sdk.attempts import Attempt
    from nexa_sdk.run import Run

__all__ = ["bar", "elapsed_text", "grid", "rows", "run_html", "run_text", "since_text"]

SHOWN = 30  # rows of the table; the rest is counted
MOST_CELLS = 10_000  # squares of the grid; of more trials several share one
LARGEST = 50_000  # characters of the grid: it is saved with the notebook
ACROSS = 100  # squares in a line of the grid


def rows(run: Run) -> tuple[list[str], list[list[Any]], str]:
    """Return the columns and the rows worth seeing: failures first, then what runs, what waits, what is done."""
    attempts = sorted(run.last_known, key=lambda attempt: (_order(attempt.status.state), attempt.trial))
    shown = sorted(attempts[:SHOWN], key=lambda attempt: attempt.trial)
    names = list(run.sweep.parameters)
    rows = []
    for attempt in shown:
        trial = run.sweep[attempt.trial]
        status = attempt.status
        code = "" if status.exit_code is None else status.exit_code
        rows.append(
            [attempt.trial, *(trial[name] for name in names), status.state, code, elapsed_text(attempt), status.node, status.reason]
        )
    hidden = len(attempts) - len(shown)
    return ["trial", *names, "state", "exit", "elapsed", "node", "reason"], rows, f"… and {hidden:,} more" if hidden else ""


def _order(state: State) -> int:
    """Say which of several trials is to be seen first: the one with the lowest."""
    if state.is_failure or state == "UNKNOWN":
        return 0
    return {"RUNNING": 1, "COMPLETED": 3}.get(state.value, 2)


def elapsed_text(attempt: Attempt) -> str:
    """Return how long it took, or has been running: ``1:02:03``; nothing where it has not begun."""
    status = attempt.status
    if status.start is None or (status.end is None and status.state.is_terminal):
        return ""
    return _clock((status.end or time.time()) - status.start)


def since_text(run: Run) -> str:
    """Say how long a run has been going since its launch, or took: ``1:02:03 since its launch``."""
    ends = [attempt.status.end for attempt in run.last_known]
    if run.is_finished:
        known = [end for end in ends if end is not None]
        return f"took {_clock(max(known) - run.created)} from its launch on" if known and max(known) >= run.created else ""
    return f"{_clock(time.time() - run.created)} since its launch"


def _clock(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def run_html(run: Run) -> str:
    """Show a run and its trials as HTML: a bar of the states, a grid of the trials where it is small, and a table."""
    columns, shown, more = rows(run)
    place = columns.index("state")
    marked = [[*row[:place], Markup(display.state_badge(row[place])), *row[place + 1 :]] for row in shown]
    below = f"<div>{html.escape(more)}</div>" if more else ""
    return f"<div>{run._repr_html_()}{bar(run)}{grid(run) if more else ''}{display.table(columns, marked)}{below}</div>"


def run_text(run: Run) -> str:
    """Show a run and its trials as text."""
    return "\n".join([repr(run), *display.text_table(*rows(run))])


_PROGRESS = {State.COMPLETED: 0, State.COMPLETING: 2, State.RUNNING: 3, State.PENDING: 4, State.UNKNOWN: 5}


def bar(run: Run) -> str:
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


def grid(run: Run) -> str:
    """Draw all trials, a small square each, as inline SVG; of very many, neighbours share one in the colour of the worst."""
    states = [attempt.status.state for attempt in run.last_known]
    each = max(1, -(-len(states) // MOST_CELLS))
    cells, drawn = states, ""
    while True:
        if each > 1:
            cells = [min(states[k : k + each], key=_order) for k in range(0, len(states), each)]
        drawn = _squares(cells)
        if len(drawn) <= LARGEST:
            break
        each *= 2
    lines = -(-len(cells) // ACROSS)
    label = html.escape(f"{run.id}, trial by trial, {ACROSS * each:,} in a line")
    below = f'<div style="color:{display.MUTED}">each square is {each:,} trials, in the colour of the worst</div>' if each > 1 else ""
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {ACROSS} {lines}" width="{6 * ACROSS}" '
        f'style="max-width:100%;height:auto;display:block;margin:.3em 0" shape-rendering="crispEdges">{drawn}</svg>{below}'
    )


def _squares(cells: Sequence[State]) -> str:
    """Draw squares as thick lines, one path for each state: neighbours of one state in a line take some six characters."""
    if not cells:
        return ""
    counts = Counter(cells)
    usual = counts.most_common(1)[0][0]  # it lies beneath the others
    whole, rest = divmod(len(cells), ACROSS)
    area = f"M0 0h{ACROSS}v{whole}h-{ACROSS}z" + (f"M0 {whole}h{rest}v1h-{rest}z" if rest else "")
    steps: dict[State, list[str]] = {state: [] for state in counts if state is not usual}
    ends = dict.fromkeys(steps, (0, 0))  # where each path has come to: it goes on from there
    for y in range(whole + bool(rest)):
        x = 0
        for state, same in groupby(cells[y * ACROSS : (y + 1) * ACROSS]):
            length = sum(1 for _ in same)
            if state is not usual:
                before = ends[state]
                steps[state].append(f"m{x - before[0]} {y - before[1]}h{length}")
                ends[state] = (x + length, y)
            x += length
    paths = [f'<path d="{area}" style="fill:{display.colour(usual)}"><title>{counts[usual]:,} {usual.value}</title></path>']
    for state, moved in steps.items():
        d = f"M0 .5{''.join(moved)}"
        paths.append(
            f'<path d="{d}" style="fill:none;stroke:{display.colour(state)}"><title>{counts[state]:,} {state.value}</title></path>'
        )
    return "".join(paths)

"""HTML and text for notebooks: plain tables that a static page shows too, colours from the theme.

GitHub runs no scripts and drops styles and captions; JupyterLab and VS Code give colours as CSS
variables. All text is escaped: a parameter or a job's name is untrusted.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import NexaError
from nexa_sdk.states import State
from nexa_sdk.values import WrittenFloat, WrittenInt

if TYPE_CHECKING:
    from nexa_sdk.plan import Plan

__all__ = ["WRONG", "cell_text", "plan_html", "plan_text", "readable", "run_summary", "state_badge", "table", "text_table", "titled_table"]

_BORDER = "var(--jp-border-color2, var(--vscode-panel-border, #ccc))"
_CELL = "text-align:left;padding:.15em .8em .15em 0"
MUTED = "var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #666))"
_COLOURS = {
    State.COMPLETED: "var(--jp-success-color1, #2e7d32)",
    State.RUNNING: "var(--jp-info-color1, #0277bd)",
    State.COMPLETING: "var(--jp-info-color1, #0277bd)",
    State.CANCELLED: "var(--jp-warn-color1, #b26a00)",
    State.UNKNOWN: "var(--jp-warn-color1, #b26a00)",
}
_FAILED = "var(--jp-error-color1, #c62828)"
VERDICTS = {"ok": ("✓", State.COMPLETED), "warning": ("!", State.CANCELLED), "error": ("✗", State.FAILED), "unknown": ("?", State.UNKNOWN)}


def colour(state: State) -> str:
    """Return the colour of a state, as CSS."""
    return _FAILED if state.is_failure and state not in _COLOURS else _COLOURS.get(state, MUTED)


def state_badge(state: State) -> str:
    """Show a state as a word in its colour, which is nearer to the text's than that of an area: it has to be read."""
    return f'<span style="{readable(colour(state))};font-weight:600">{state.value}</span>'


WRONG = "var(--jp-error-color0, var(--vscode-errorForeground, #b71c1c))"
"""The colour of words that say what is wrong."""


def readable(plain: str) -> str:
    """Return CSS that writes words in a colour, nearer to the text's: on dark as on light it has to be read."""
    mixed = f"color-mix(in srgb, {plain} 75%, var(--jp-ui-font-color0, var(--vscode-foreground, #000)))"
    return f"color:{plain};color:{mixed}"


def cell_text(value: Any) -> str:
    """Write a table's cell: a number as the user wrote it, nothing for what is missing."""
    if value is None:
        return ""
    if isinstance(value, (WrittenFloat, WrittenInt)):
        return value.text
    return str(value)


class Markup(str):
    """HTML that is safe already."""


def _cell(value: Any) -> str:
    return value if isinstance(value, Markup) else html.escape(cell_text(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Lay out a plain table."""
    head = "".join(f'<th style="{_CELL}">{html.escape(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(f'<td style="{_CELL}">{_cell(value)}</td>' for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def titled_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, more: str = "") -> str:
    """Lay out a table under a title."""
    below = f'<div style="color:{MUTED}">{html.escape(more)}</div>' if more else ""
    above = f"<div><b>{html.escape(title)}</b></div>" if title else ""
    return f'<div style="line-height:1.4">{above}{table(columns, rows)}{below}</div>'


def text_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], more: str = "") -> list[str]:
    """Lay out a table as lines of text."""
    cells = [list(columns), *([cell_text(value) for value in row] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [*lines, *([more] if more else [])]


# ---- a plan ------------------------------------------------------------------------------------

_SHOWN_TRIALS = 5


def _first_trials(plan: Plan) -> tuple[list[str], list[list[Any]], str]:
    trials = [plan.sweep[i] for i in range(min(_SHOWN_TRIALS, len(plan.sweep)))]
    rest = len(plan.sweep) - len(trials)
    return (
        ["trial", *plan.sweep.parameters],
        [[i, *trial.values()] for i, trial in enumerate(trials)],
        f"… and {rest:,} more" if rest else "",
    )


def plan_text(plan: Plan) -> str:
    """Show a plan as text."""
    return "\n".join([repr(plan), *text_table(*_first_trials(plan)), "", plan.script.rstrip(), "", *_cost(plan)])


def plan_html(plan: Plan) -> str:
    """Show a plan as HTML: first trials, checks, cost, and the script highlighted."""
    columns, rows, more = _first_trials(plan)
    arrays = f" in {len(plan.arrays):,} arrays" if len(plan.arrays) > 1 else ""
    name = f"Plan {plan.id} · {plan.sweep._size_text()}{arrays} · {plan.cluster.url}{plan.after_text}"
    return (
        f"<div>{titled_table(name, columns, rows, more=more)}"
        f"<div>{'<br>'.join(map(html.escape, _cost(plan)))}</div>"
        f"{_checks(plan)}"
        f"<details open><summary>job-0.sbatch</summary>{bash_html(plan.script)}</details></div>"
    )


def _cost(plan: Plan) -> list[str]:
    """Say what it will cost; a file of prices that can't be meant keeps no plan from being shown."""
    try:
        return [*plan.cost().summary, *(f"budget: {check.words}" for check in plan.hold.checks())]
    except NexaError as error:
        return [f"price unknown: {error}"]


def _checks(plan: Plan) -> str:
    """Show the checks that cost nothing: those of this machine. preflight() asks the cluster."""
    found = plan.local_checks()
    marks = []
    for check in found:
        sign, state = VERDICTS[check.verdict]
        marks.append(f'<span style="color:{colour(state)}">{sign}</span> {html.escape(check.what)}: {html.escape(check.words)}')
    return "<div>" + "<br>".join(marks) + "</div>" if marks else ""


# Pygments' kinds of token, and the variables of the notebook's own editor theme.
_TOKENS = {
    "Comment": "var(--jp-mirror-editor-comment-color, #408080)",
    "Literal.String": "var(--jp-mirror-editor-string-color, #ba2121)",
    "Keyword": "var(--jp-mirror-editor-keyword-color, #008000)",
    "Name.Builtin": "var(--jp-mirror-editor-builtin-color, #008000)",
    "Name.Variable": "var(--jp-mirror-editor-variable-2-color, #19177c)",
    "Literal.Number": "var(--jp-mirror-editor-number-color, #666666)",
}


def bash_html(script: str, *, is_framed: bool = True) -> str:
    """Highlight bash, in the colours of the notebook's editor."""
    try:
        from pygments.lexers.shell import BashLexer
    except ImportError:  # it comes with IPython; elsewhere the script is shown plain
        inner = html.escape(script)
    else:
        parts = []
        for kind, text in BashLexer().get_tokens(script):
            known = next((css for name, css in _TOKENS.items() if str(kind).startswith(f"Token.{name}")), None)
            escaped = html.escape(text)
            parts.append(f'<span style="color:{known}">{escaped}</span>' if known else escaped)
        inner = "".join(parts)
    style = (
        f"max-height:28em;overflow:auto;border:1px solid {_BORDER};padding:.5em"
        if is_framed
        else "margin:0;padding:.5em;border:0;white-space:pre"
    )
    return f'<pre style="{style}">{inner}</pre>'


# ---- a run -------------------------------------------------------------------------------------


def run_summary(run_id: str, cluster: str, trials: int, counts: Mapping[State, int], folder: str) -> str:
    """Show a run in two lines: its states, and where it lies."""
    states = " · ".join(f"{count:,} {state_badge(state)}" for state, count in counts.items()) or "submitted"
    return (
        f"<div><b>Run {html.escape(run_id)}</b> · {trials:,} trial{'s' if trials != 1 else ''} on {html.escape(cluster)}: {states}"
        f'<div style="color:{MUTED}">{html.escape(folder)}</div></div>'
    )

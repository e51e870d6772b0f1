"""What a form shows of the plan that it stands for, as HTML: trials, cost and checks, and the script with what is new in it."""

from __future__ import annotations

import difflib
import html
import random
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

from nexa_sdk import display

if TYPE_CHECKING:
    from nexa_sdk.plan import Plan
    from nexa_sdk.sweep import Sweep

__all__ = ["button_text", "free_html", "marked_script", "said_html", "trials_html", "verdict_mark"]

SHOWN = 5  # first trials, and as many of the others
SHOWN_PARTITIONS = 6


def trials_html(sweep: Sweep) -> str:
    """Show the first trials, and some of the others."""
    first = list(range(min(SHOWN, len(sweep))))
    others = sorted(random.Random(0).sample(range(SHOWN, len(sweep)), min(SHOWN, len(sweep) - SHOWN))) if len(sweep) > SHOWN else []
    rows = [[number, *sweep[number].values()] for number in [*first, *others]]
    more = f"the first {SHOWN}, and {len(others)} of the others" if others else ""
    return display.titled_table("", ["trial", *sweep.parameters], rows, more=more)


def free_html(partitions: Mapping[str, str], chosen: str) -> str:
    """Say what is free in the partition that is chosen, or in the first ones; `partitions` has the words for each."""
    shown = {chosen: partitions[chosen]} if chosen in partitions else dict(islice(partitions.items(), SHOWN_PARTITIONS))
    rows = [f"<b>{html.escape(name)}</b> {html.escape(words)}" if name else html.escape(words) for name, words in shown.items()]
    hidden = len(partitions) - len(shown) if chosen not in partitions else 0
    rows += [f"… and {hidden:,} more partitions"] if hidden else []
    return f'<div style="line-height:1.5;color:{display.MUTED}">{"<br>".join(rows)}</div>'


def said_html(plan: Plan) -> str:
    """Say what it costs, and what this machine's checks say."""
    lines = [html.escape(line) for line in (*plan.cost().summary, *(f"budget: {check.words}" for check in plan.hold.checks()))]
    marks = [f"{verdict_mark(check.verdict)} {html.escape(check.what)}: {html.escape(check.words)}" for check in plan.local_checks()]
    return f"<div style='line-height:1.5'>{'<br>'.join([*lines, *marks])}</div>"


def verdict_mark(verdict: str) -> str:
    """Show the sign of a verdict."""
    sign, state = display.VERDICTS[verdict]
    return f'<span style="color:{display.colour(state)}" title="{verdict}">{sign}</span>'


def button_text(plan: Plan) -> str:
    """Say what Launch does, and what it costs at most."""
    count, cost = len(plan.sweep), plan.cost()
    price = f", ≤ {cost.total:,.2f} {cost.currency}" if cost.total is not None else ""
    return f"Launch {count:,} trial{'s' if count != 1 else ''}{price}"


def marked_script(script: str, now: str, before: str) -> str:
    """Show a script with a + beside each line that is new."""
    new = {
        line
        for tag, _, _, low, high in difflib.SequenceMatcher(None, before.splitlines(), now.splitlines(), autojunk=False).get_opcodes()
        if tag != "equal"
        for line in range(low, high)
    }
    signs = "".join("+\n" if number in new else " \n" for number in range(len(now.splitlines())))
    gone = f", {len(new)} line{'s' if len(new) != 1 else ''} changed" if new else ""
    # no line wraps, or the signs would stand beside others
    return (
        f"<div>job-0.sbatch{gone}</div>"
        '<div style="display:flex;max-height:28em;overflow:auto" tabindex="0" role="region" aria-label="the script">'
        '<pre style="margin:0;padding:.5em 0;white-space:pre;color:var(--jp-success-color0, #1b5e20);font-weight:bold" aria-hidden="true">'
        f"{signs}</pre>"
        f'<div style="flex:1;min-width:0">{display.bash_html(script, is_framed=False)}</div></div>'
    )

"""Read what sacct says that jobs took. Pure: text in, values out.

``-D`` keeps the executions before a requeue, ``-X`` counts no step twice. GPUs are counted by the
untyped ``gres/gpu`` of AllocTRES; typed ones are its parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from nexa_sdk.scheduling.base import Usage
from nexa_sdk.states import State

__all__ = ["USAGE_FIELDS", "read_usage"]

# The name is last: it alone may hold a bar.
USAGE_FIELDS = "JobID,JobIDRaw,User,Account,Partition,State,Start,End,ElapsedRaw,AllocCPUS,AllocNodes,AllocTRES,JobName"

_ALIVE = frozenset({State.RUNNING, State.SUSPENDED, State.COMPLETING, State.CONFIGURING})


def read_usage(text: str, *, now: float) -> Iterator[Usage]:
    """Read ``sacct -n -P -X -D --format=USAGE_FIELDS``; what never began is left out.

    Parameters
    ----------
    now : float
        When it was asked, in seconds since the epoch.
    """
    for line in text.splitlines():
        fields = line.split("|", 12)
        if len(fields) == 13 and (found := _usage(fields, now)) is not None:
            yield found


def _usage(fields: list[str], now: float) -> Usage | None:
    job, raw, user, account, partition, state_text, start_text, end_text, elapsed_text, cpus, nodes, tres, name = fields
    if not (start_text.isdecimal() and elapsed_text.isdecimal()) or start_text == "0":
        return None  # it waits, or was cancelled before it began
    state = State.read(state_text)
    start, elapsed = float(start_text), float(elapsed_text)
    is_over = state not in _ALIVE and state is not State.PENDING and end_text.isdecimal() and end_text != "0"
    if is_over and float(end_text) == start and not elapsed and not tres:
        return None  # 20.11 gives the end as start of what never began
    if state is State.PENDING:  # it waits to run again, and tells of nothing that was used
        return None
    end = float(end_text) if is_over else max(now, start)
    gpus, gpu_type = _gpus(tres)
    return Usage(
        job, raw, name, user, account, partition, state, start, max(start, end), is_over, elapsed,
        gpus, _number(cpus), _number(nodes), gpu_type, is_skewed=end < start,
    )  # fmt: skip


_TRES = re.compile(r"gres/gpu(?::([^=,]+))?=(\d+)")


def _gpus(tres: str) -> tuple[int, str]:
    """Count the GPUs of AllocTRES, and name their type; of several types all, joined by ``+``."""
    found = _TRES.findall(tres)
    typed = {kind: int(count) for kind, count in found if kind}
    untyped = next((int(count) for kind, count in found if not kind), None)
    return sum(typed.values()) if untyped is None else untyped, "+".join(sorted(kind for kind, count in typed.items() if count))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0

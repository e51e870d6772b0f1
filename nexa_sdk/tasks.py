"""Lists of array tasks, as sbatch's ``--array`` has them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["format_tasks", "parse_tasks"]


def format_tasks(tasks: Sequence[int]) -> str:
    """Write ascending task numbers as sbatch's ``--array`` does: ``0-3,7``."""
    parts: list[str] = []
    start = previous = None
    for task in [*tasks, None]:
        if previous is not None and task == previous + 1:
            previous = task
            continue
        if start is not None:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = task
    return ",".join(parts)


def parse_tasks(text: str) -> list[int]:
    """Read ``0-3,7`` and ``1-9:2``, as sbatch's ``--array`` has them."""
    tasks: list[int] = []
    for part in text.partition("%")[0].split(","):
        span, _, step = part.partition(":")
        low, _, high = span.partition("-")
        tasks += range(int(low), int(high or low) + 1, int(step or 1))
    return tasks

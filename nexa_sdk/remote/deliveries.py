"""Which executions of cells have told somebody here how they ended: the same cell is executed anew then."""

from __future__ import annotations

from pathlib import Path

from nexa_sdk import settings

__all__ = ["is_delivered", "note_delivered"]


def is_delivered(run_id: str) -> bool:
    """Whether somebody here was told how a run's cell ended."""
    return _mark(run_id).exists()


def note_delivered(run_id: str) -> None:
    """Write down that somebody was."""
    mark = _mark(run_id)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _mark(run_id: str) -> Path:
    return settings.home() / "cells" / run_id

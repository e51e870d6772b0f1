"""How fast bytes move, and when the last will have."""

from __future__ import annotations

import time

from nexa_sdk.transports.moving import Moved, Told

__all__ = ["Pace"]

EVERY = 0.1  # seconds between two words


class Pace:
    """Tells how far it is.

    Parameters
    ----------
    total : int
        Bytes.
    told : callable
    """

    def __init__(self, total: int, told: Told) -> None:
        self._total, self._told = total, told
        self._moved = self._done = 0
        self._began = self._told_at = time.monotonic()

    def skip(self, size: int) -> None:
        """Count bytes that were there already."""
        self._done += size

    def add(self, size: int) -> None:
        """Count bytes that moved."""
        self._moved += size
        self._done += size
        now = time.monotonic()
        if now - self._told_at >= EVERY:
            self._told_at = now
            rate = self._moved / (now - self._began)
            share = min(1.0, self._done / self._total) if self._total else 1.0
            self._told(Moved(self._moved, share, rate, max(0, self._total - self._done) / rate))

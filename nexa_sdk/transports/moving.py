"""Moving many files between here and a cluster, by whatever there is to move them with."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nexa_sdk.errors import ClusterError, CommandTimeout

__all__ = ["ChangedThere", "Item", "Limit", "Moved", "Mover", "Told"]


class ChangedThere(ClusterError):
    """The folder is another than was expected; nothing was sent."""


@dataclass(frozen=True)
class Item:
    """A file that went, or would go.

    Attributes
    ----------
    name : bytes
        Relative to the folders.
    size : int
        Bytes.
    is_new : bool
        Whether there was none of that name.
    """

    name: bytes
    size: int
    is_new: bool


@dataclass(frozen=True)
class Moved:
    """How far it is.

    Attributes
    ----------
    size : int
        Bytes that have arrived, of files that had to go.
    share : float
        Of all bytes, those that had not to go included; 0 to 1.
    rate : float
        Bytes a second.
    remaining : float
        Seconds.
    """

    size: int
    share: float
    rate: float
    remaining: float


Told = Callable[[Item | Moved], None]


class Limit:
    """The time that something may take.

    Parameters
    ----------
    seconds : float, optional
        Unless given, as long as it takes.
    clock : callable
    """

    def __init__(self, seconds: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._began = clock()

    def check(self) -> None:
        """Raise CommandTimeout if it is over."""
        if self._seconds is not None and self._clock() - self._began > self._seconds:
            raise CommandTimeout(f"not all files had arrived after {self._seconds:g} seconds; those that had stay: the same again goes on")

    def at_most(self, seconds: float) -> float:
        """Return so many seconds, or what is left of it."""
        return seconds if self._seconds is None else max(0.0, min(seconds, self._began + self._seconds - self._clock()))


class Mover(ABC):
    """Moves files. What arrived in part is kept in a folder of ours, and taken up again.

    Attributes
    ----------
    by : str
        What moves them.
    moved : int
        Bytes that went either way so far, in all attempts.
    """

    by: str
    moved: int = 0

    @abstractmethod
    def push(self, root: bytes, names: Sequence[bytes], folder: str, *, told: Told, limit: Limit, dry_run: bool = False) -> None:
        """Send what differs of some files and links to the folder; links there that lead to folders are followed.

        Parameters
        ----------
        told : callable
            Is told each file that goes, and how far it is.
        dry_run : bool
            Only tell what would go.

        Raises
        ------
        ClusterError
            The line went (`may_pass`), the disk is full, or another reason; what arrived is kept.
        """

    @abstractmethod
    def pull(self, folder: str, names: Sequence[bytes], to: bytes, *, told: Told, limit: Limit) -> None:
        """Bring what differs of some files; a link brings what it leads to."""

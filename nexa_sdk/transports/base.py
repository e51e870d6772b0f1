"""How a command and its files reach a machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Completed", "Transport"]


@dataclass(frozen=True)
class Completed:
    """A command that ended: its exit status and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


class Transport(ABC):
    """A machine that runs commands and holds files."""

    is_here: bool
    """Whether it is this machine, with this machine's files."""

    @abstractmethod
    def run(self, argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes = b"", timeout: float) -> Completed:
        """Run a command to its end. No shell reads `argv`, and `env` is all of its environment.

        Raises
        ------
        CommandTimeout
            After `timeout` seconds; the command is ended, and what it did may have happened.
        ClusterNotFound
            When there is no such program.
        """

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return the environment of a login there."""

    @abstractmethod
    def read(self, path: str, *, offset: int = 0) -> bytes:
        """Return a file from `offset` on; nothing where there is no such file."""

    @abstractmethod
    def read_many(self, folder: str, names: Sequence[str]) -> dict[str, bytes]:
        """Return those of the named files of a folder that are there."""

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Name what lies in a folder, in no order; nothing where there is no such folder."""

    @abstractmethod
    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; one that is not there is no error."""

"""How a command and its files reach a machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nexa_sdk.errors import CommandFailed

__all__ = ["MOST_AT_ONCE", "Completed", "Transport"]

MOST_AT_ONCE = 1 << 20  # bytes of a file that grows, in one answer
QUESTION = 60.0  # seconds for what only reads
AT_A_TIME = 500  # files that are looked at by one command

# The ends of files, one after another, each with a NUL behind it.
_ENDS = """
lines=$1; shift
for file do tail -n "$lines" -- "$file" 2> /dev/null; printf '\\0'; done
"""

_SIZE = """
[ ! -f "$1" ] || exec wc -c < "$1"
echo 0
"""


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

    def for_bulk(self) -> Transport:
        """Return what reaches it beside, so that much data holds up no question."""
        return self

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return the environment of a login there; what of it is secret must not travel in an argument list."""

    def bare_environment(self) -> dict[str, str]:
        """Return what a program needs that only looks at files or moves them: nothing of the login but where programs lie."""
        return {"PATH": self.environment().get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"}

    @property
    def machines(self) -> Mapping[str, Transport]:
        """The machines of several, by name; this one has no name where it is the only one."""
        return {"": self}

    def at(self, nodes: str | None) -> Transport:
        """Return what reaches a machine of several; see :meth:`nexa_sdk.scheduling.base.Scheduler.place`."""
        return self

    @abstractmethod
    def read(self, path: str, *, offset: int = 0) -> bytes:
        """Return a file from `offset` on; nothing where there is no such file."""

    def size(self, path: str) -> int:
        """Return how many bytes a file has; 0 where there is no such file."""
        answer = self.run(["sh", "-c", _SIZE, "nexa-size", path], env=self.bare_environment(), timeout=QUESTION)
        if answer.returncode or not answer.stdout.strip().isdigit():
            raise CommandFailed("wc", answer.returncode, answer.stderr)
        return int(answer.stdout)

    @abstractmethod
    def read_on(self, offsets: Mapping[str, int]) -> dict[str, bytes]:
        """Return what files have beyond an offset, :data:`MOST_AT_ONCE` bytes each at most; those with nothing new are left out."""

    @abstractmethod
    def read_many(self, folder: str, names: Sequence[str]) -> dict[str, bytes]:
        """Return those of the named files of a folder that are there."""

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Name what lies in a folder, in no order; nothing where there is no such folder."""

    @abstractmethod
    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; one that is not there is no error."""

    def read_ends(self, paths: Sequence[str], *, lines: int) -> Sequence[str]:
        """Return the last lines of files; nothing of one that is not there."""
        found = []
        for k in range(0, len(paths), AT_A_TIME):
            some = paths[k : k + AT_A_TIME]
            answer = self.run(["sh", "-c", _ENDS, "nexa-ends", str(lines), *some], env=self.bare_environment(), timeout=QUESTION)
            texts = answer.stdout.split("\0")
            if answer.returncode or len(texts) != len(some) + 1:
                raise CommandFailed("tail", answer.returncode, answer.stderr)
            found += texts[:-1]
        return found

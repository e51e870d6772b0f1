"""Move files by rsync: ours, and the other end's, with a line between them that was there already."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Protocol

from nexa_sdk.errors import CommandFailed, ConnectionLost
from nexa_sdk.manifest import OURS
from nexa_sdk.transports import rsync
from nexa_sdk.transports.moving import Limit, Mover, Told

__all__ = ["Line", "RsyncMover", "version_here"]

LOOK = 0.5  # seconds between two looks whether all goes on
STILL = 30.0  # seconds without a byte after which the host is asked whether it is there
ENDING = 5.0  # seconds that rsync has to put away what it was at
SHARE = 0.25  # of what a command line may hold, for names
EACH = 11  # bytes of a name besides its own: "./", its end, and a pointer to it
SILENT = 30  # rsync's exit status after its own time limit


class Line(Protocol):
    """How rsync reaches the other end; see :class:`nexa_sdk.transports.ssh.bulk.Bulk`."""

    shell: str
    descriptor: int
    moved: int

    def begin(self) -> None: ...

    def end(self) -> str: ...

    def check(self) -> None: ...


@cache
def version_here() -> str:
    """Return what this machine's rsync says of itself; nothing where there is none."""
    try:
        return subprocess.run(
            ["rsync", "--version"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
            encoding="utf-8",
            errors="replace",
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


class RsyncMover(Mover):
    """Moves by rsync.

    Parameters
    ----------
    line : callable, optional
        Returns a line to a folder of the other end, to be used in a ``with``. Without, the folders are this machine's.
    exact : bool
        Whether both ends compare times to the nanosecond.
    """

    by = "rsync"

    def __init__(self, line: Callable[[str], AbstractContextManager[Line]] | None = None, *, exact: bool = True) -> None:
        self._line = line
        self._exact = exact

    def push(self, root: bytes, names: Sequence[bytes], folder: str, *, told: Told, limit: Limit, dry_run: bool = False) -> None:
        """Send what differs; see the base class."""
        partial = os.path.join(os.fsencode(folder), OURS.encode(), b"partial")
        target = b"nexa:./" if self._line is not None else os.path.join(os.fsencode(folder), b"")
        self._run(root, target, names, folder, partial=partial, follow=False, dry_run=dry_run, told=told, limit=limit)

    def pull(self, folder: str, names: Sequence[bytes], to: bytes, *, told: Told, limit: Limit) -> None:
        """Bring what differs; see the base class."""
        source = b"nexa:./" if self._line is not None else os.path.join(os.fsencode(folder), b"")
        partial = os.path.join(to, OURS.encode(), b"partial")
        os.makedirs(partial, exist_ok=True)
        self._run(source, os.path.join(to, b""), names, folder, partial=partial, follow=True, dry_run=False, told=told, limit=limit)

    def _run(
        self,
        source: bytes,
        target: bytes,
        names: Sequence[bytes],
        folder: str,
        *,
        partial: bytes,
        follow: bool,
        dry_run: bool,
        told: Told,
        limit: Limit,
    ) -> None:
        fit = not follow and sum(map(len, names)) + EACH * len(names) < os.sysconf("SC_ARG_MAX") * SHARE
        with nullcontext() if self._line is None else self._line(folder) as line:
            argv = rsync.command(
                os.path.join(source, b""),
                target,
                partial=partial,
                through=line.shell if line is not None else None,
                exact=self._exact,
                follow=follow,
                dry_run=dry_run,
                names=names if fit else None,
            )
            process = subprocess.Popen(
                argv,
                cwd=source if fit else None,
                env=rsync.environment(os.environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=() if line is None else (line.descriptor,),
                start_new_session=True,  # Ctrl-C is ours to hear: rsync is ended in order
            )
            try:
                if line is not None:
                    line.begin()
                said = self._follow(process, () if fit else names, line, told, limit)
            except BaseException:
                _end(process)
                raise
            finally:
                self.moved += line.moved if line is not None else 0
            if line is not None:
                said += line.end()
        if process.returncode == SILENT:
            raise ConnectionLost(f"rsync heard nothing for {rsync.SILENCE} seconds; what arrived is kept")
        if process.returncode not in (0, rsync.GONE):
            raise CommandFailed("rsync", process.returncode, rsync.explain(said))

    def _follow(self, process: subprocess.Popen[bytes], names: Sequence[bytes], line: Line | None, told: Told, limit: Limit) -> str:
        """Tell what it prints until it ends, and return what it said on stderr."""
        assert process.stdout is not None
        said = bytearray()
        helpers = [
            threading.Thread(target=_feed, args=(process, names), name="nexa-rsync-names", daemon=True),
            threading.Thread(target=_listen, args=(process, said), name="nexa-rsync-words", daemon=True),
        ]
        for helper in helpers:
            helper.start()
        reader, output = rsync.Reader(), process.stdout.fileno()
        moved, since = 0, time.monotonic()
        with process.stdout, selectors.DefaultSelector() as bell:
            bell.register(output, selectors.EVENT_READ)
            while True:
                limit.check()
                if bell.select(LOOK):
                    piece = os.read(output, 1 << 16)
                    if not piece:
                        break
                    for event in reader.feed(piece):
                        told(event)
                elif line is not None and line.moved == moved:
                    if time.monotonic() - since > STILL:
                        line.check()
                        since = time.monotonic()
                    continue
                moved, since = line.moved if line is not None else 0, time.monotonic()
        process.wait(ENDING)
        for helper in helpers:
            helper.join(ENDING)
        return said.decode(errors="replace")


def _feed(process: subprocess.Popen[bytes], names: Sequence[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        for name in names:
            pipe.write(b"./%b\0" % name)


def _listen(process: subprocess.Popen[bytes], said: bytearray) -> None:
    assert process.stderr is not None
    with process.stderr as pipe:
        said += pipe.read()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End rsync: it puts away what is half there, unless that takes too long."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDING)
            break

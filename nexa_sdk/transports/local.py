"""This machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from nexa_sdk.errors import ClusterNotFound, CommandTimeout
from nexa_sdk.transports.base import MOST_AT_ONCE, Completed, Transport

__all__ = ["LocalTransport"]


class LocalTransport(Transport):
    """Commands and files of this machine."""

    is_here = True

    def run(self, argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes = b"", timeout: float) -> Completed:
        """Run a command to its end; see the base class."""
        try:
            process = subprocess.Popen(
                argv,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in a terminal must not cut a submission in half
            )
        except FileNotFoundError as error:
            raise ClusterNotFound(f"there is no program {argv[0]!r} on this machine's PATH") from error
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            _end(process)
            raise CommandTimeout(f"{argv[0]} did not answer within {timeout:g} seconds") from None
        except BaseException:  # Ctrl-C: leave nothing behind
            _end(process)
            raise
        return Completed(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    def environment(self) -> dict[str, str]:
        """Return this process's environment."""
        return dict(os.environ)

    def read(self, path: str, *, offset: int = 0) -> bytes:
        """Return a file from `offset` on; see the base class."""
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""

    def size(self, path: str) -> int:
        """Return how many bytes a file has; see the base class."""
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            return 0

    def read_on(self, offsets: Mapping[str, int]) -> dict[str, bytes]:
        """Return what files have beyond an offset; see the base class."""
        found = {}
        for path, offset in offsets.items():
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                file.seek(offset)
                if content := file.read(MOST_AT_ONCE):
                    found[path] = content
        return found

    def read_many(self, folder: str, names: Sequence[str]) -> dict[str, bytes]:
        """Return those of the named files that are there."""
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError), open(os.path.join(folder, name), "rb") as file:
                found[name] = file.read()
        return found

    def list(self, folder: str) -> list[str]:
        """Name what lies in a folder; see the base class."""
        try:
            return os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; one that is not there is no error."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

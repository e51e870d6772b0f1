"""rsync's way to the other end: a session of the connection that is open, so that nobody logs in again and no key is checked twice."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nexa_sdk.errors import ClusterError, ClusterNotFound, ConnectionLost
from nexa_sdk.manifest import OURS
from nexa_sdk.transports import rsync
from nexa_sdk.transports.moving import ChangedThere
from nexa_sdk.transports.ssh.remote import Started, find_start, render

if TYPE_CHECKING:
    import paramiko

    from nexa_sdk.transports.ssh.connection import Connection

__all__ = ["Bulk"]

OPENING = 60.0  # seconds to get a session
ENDING = 10.0  # seconds in which a session that is closed ends here
PIECE = 1 << 17  # bytes
RELAY = Path(__file__).with_name("relay.py")

ANOTHER = 90  # exit status: the list there is another than was expected
_THERE = "cd -- {folder} || exit; export PATH={path} LC_ALL=C; exec {command}"
_EXPECT = """{{ cd -- {folder} && read -r head < {ours}/files; }} 2> /dev/null && [ "$head" = {head} ] || exit {another}; """


class Bulk:
    """A session in which the other end's rsync runs, for one rsync of ours; use it in a ``with``.

    Parameters
    ----------
    connection : Connection
    program : str
        The other end's rsync.
    folder : str
        Where it is started.
    path : str
        Its PATH.
    expected : str, optional
        What the list of the files that are ours there has to begin with; with another nothing is started.

    Attributes
    ----------
    shell : str
        What our rsync takes as its remote shell, by ``-e``.
    descriptor : int
        What it has to inherit.
    moved : int
        Bytes that went either way.
    """

    def __init__(self, connection: Connection, *, program: str, folder: str, path: str, expected: str | None = None) -> None:
        self._connection = connection
        self._program, self._folder, self._path, self._expected = program, folder, path, expected
        self._channel: paramiko.Channel | None = None
        self._error: ClusterError | None = None
        self._said = bytearray()
        self._thread: threading.Thread | None = None
        self._sender: threading.Thread | None = None
        self.moved = 0

    def __enter__(self) -> Self:
        self._connection.open()  # here, where a person can be asked for a one-time code
        self._ours, self._theirs = socket.socketpair()
        self.descriptor = self._theirs.fileno()
        self.shell = rsync.shell([sys.executable, "-I", "-S", str(RELAY), str(self.descriptor)])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._channel is not None and kind is not None:
            with contextlib.suppress(OSError, EOFError):
                self._channel.close()  # the other end's rsync keeps what arrived, and ends
        self._theirs.close()
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(ENDING)
        self._ours.close()

    def begin(self) -> None:
        """Wait for the relay of an rsync that was started now."""
        self._theirs.close()  # the last of them is the relay's: when that is gone, nobody calls any more
        self._thread = threading.Thread(target=self._serve, name="nexa-ssh-bulk", daemon=True)
        self._thread.start()

    def end(self) -> str:
        """Wait for the session's end once our rsync has ended, and return what the other end said on stderr.

        Raises
        ------
        ClusterError
            The line went, or never was.
        """
        assert self._thread is not None
        self._thread.join(ENDING)
        if self._thread.is_alive() and self._channel is not None:
            self._channel.close()
            self._thread.join(ENDING)
        if self._error is not None:
            raise self._error
        return self._said.decode(errors="replace")

    def check(self) -> None:
        """Ask whether the host is there, when nothing has moved for long; a line on which nobody answers is closed."""
        transport = None if self._channel is None else self._channel.get_transport()
        if transport is not None:
            self._connection.check(transport)

    # ---- in the thread -------------------------------------------------------------------------

    def _serve(self) -> None:
        import paramiko

        try:
            words, ends, *_ = socket.recv_fds(self._ours, PIECE, 2)
        except OSError:
            return
        if len(ends) != 2:  # rsync ended before it called
            return
        with open(ends[1], "wb", buffering=0) as sink:
            source = open(ends[0], "rb", buffering=0)
            for end in ends:
                os.set_blocking(end, True)
            try:
                with self._connection.session(timeout=OPENING) as channel:
                    self._channel = channel
                    command = [word.decode(errors="surrogateescape") for word in words.split(b"\0")[1:]]  # the first is "rsync"
                    self._pump(channel, command, source, sink)
            except ClusterError as error:
                self._error = error
            except (paramiko.SSHException, OSError, EOFError) as error:
                self._error = self._lost(error)
            finally:
                if self._sender is None:
                    source.close()
                with contextlib.suppress(OSError):
                    self._ours.shutdown(socket.SHUT_RDWR)  # the relay ends, whether it was told a status or not

    def _lost(self, why: object = "") -> ConnectionLost:
        host = self._connection.settings.address.host
        return ConnectionLost(f"the connection to {host} was lost while files went over it{f' ({why})' if why else ''}; what arrived stays")

    def _pump(self, channel: paramiko.Channel, words: Sequence[str], source: FileIO, sink: FileIO) -> None:
        started = Started(["eval", self._there(words)], None)
        channel.exec_command(started.command)
        if started.stdin:
            channel.sendall(started.stdin)
        self._sender = threading.Thread(target=self._send, args=(channel, source), name="nexa-ssh-bulk-send", daemon=True)
        listener = threading.Thread(target=self._listen, args=(channel,), name="nexa-ssh-bulk-words", daemon=True)
        self._sender.start()
        listener.start()
        head = bytearray()
        while (start := find_start(started, bytes(head))) is None and (piece := channel.recv(PIECE)):
            head += piece
        if start is not None:
            piece = bytes(head[start[1] :])
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # our rsync ended before the other
                _write(sink, piece)
                while piece := channel.recv(PIECE):
                    self.moved += len(piece)
                    _write(sink, piece)
        sink.close()  # our rsync learns of the end
        code = channel.recv_exit_status()
        listener.join(ENDING)
        with contextlib.suppress(BrokenPipeError):  # rsync did not wait for it
            self._ours.sendall(bytes([code if 0 <= code < 255 else 255]))
        if code == -1:
            raise self._lost()
        if code == ANOTHER and self._expected is not None:
            raise ChangedThere(f"{self._folder} on {self._connection.settings.address.host} is not as it was after the last sync")
        if start is None:
            words_there = self._said.decode(errors="replace").strip() or head.decode(errors="replace").strip() or f"exit status {code}"
            raise ClusterNotFound(f"{self._connection.settings.address.host} runs no commands, or has no bash: {words_there}")

    def _there(self, words: Sequence[str]) -> str:
        """Write what is run there; the shell that reads it becomes rsync."""
        folder, path, head = (render([word], None) for word in (self._folder, self._path, self._expected or ""))
        expect = _EXPECT.format(folder=folder, ours=OURS, head=head, another=ANOTHER) if self._expected is not None else ""
        return expect + _THERE.format(folder=folder, path=path, command=render([self._program, *words], None))

    def _send(self, channel: paramiko.Channel, source: FileIO) -> None:
        """Send what our rsync says, until it ends."""
        with source, contextlib.suppress(OSError, EOFError):  # the session ended: seen by who reads
            while piece := source.read(PIECE):
                channel.sendall(piece)
                self.moved += len(piece)
            channel.shutdown_write()

    def _listen(self, channel: paramiko.Channel) -> None:
        while piece := channel.recv_stderr(PIECE):
            self._said += piece


def _write(sink: FileIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[sink.write(view) :]

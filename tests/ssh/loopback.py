"""A real sshd on this machine's loopback, and a line to it that can be cut after so many bytes."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[2] / "notebooks")]

from login_node import SSHD, LoginNode  # noqa: E402


class Loopback(LoginNode):
    """An sshd of our own, whose key is known; its MaxSessions is sshd's own.

    ``$NEXA_SSH_CONFIG`` is to be its `config`: any port of 127.0.0.1 is this host, ``box`` is its alias.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        if SSHD is None:
            pytest.skip("there is no sshd here; get it by: apt-get install openssh-server")
        super().__init__(folder, environment, name="box")
        kind, key, *_ = (folder / "host.pub").read_text().split()
        (folder / "known").write_text(f"box {kind} {key}\n")


class Line:
    """A port that leads to another, until so many bytes have passed.

    Parameters
    ----------
    port : int
    host : str
        Whose port it is.
    delay : float
        Seconds that every byte takes, in each direction.

    Attributes
    ----------
    passed : dict
        The bytes that passed in each direction, ``up`` to the host and ``down`` from it.
    accepted : int
        How many connections were made by it.
    cuts : int
        How often it was cut.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1", delay: float = 0.0) -> None:
        self._delay, self._host = delay, host
        self.passed, self.accepted, self.cuts = {"up": 0, "down": 0}, 0, 0
        self._to, self._limits, self._down_for, self._down_until = port, dict[str, int](), 0.0, 0.0
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, direction: str, after: int, *, down_for: float = 0.0) -> None:
        """Cut it once so many more bytes have passed in a direction, and let nobody in for so many seconds."""
        with self._lock:
            self._limits = {direction: self.passed[direction] + after}
            self._down_for = down_for

    def disarm(self) -> None:
        with self._lock:
            self._limits = {}

    def cut(self) -> None:
        """Cut it now: both ends are reset."""
        with self._lock:
            self._cut()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # else who waits for a caller gets one more
        self._listener.close()
        self.cut()

    def _cut(self) -> None:
        self._limits, self.cuts, self._down_until = {}, self.cuts + 1, time.monotonic() + self._down_for
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._pairs = []

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            if time.monotonic() < self._down_until:
                ours.close()
                continue
            self.accepted += 1
            theirs = socket.create_connection((self._host, self._to))
            for end in (ours, theirs):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append((ours, theirs))
            for source, sink, direction in ((ours, theirs, "up"), (theirs, ours, "down")):
                threading.Thread(target=self._pump, args=(source, self._delayed(sink), direction), daemon=True).start()

    def _delayed(self, sink: socket.socket) -> socket.socket:
        """Return what passes on to a socket after the delay."""
        if not self._delay:
            return sink
        ours, theirs = socket.socketpair()
        pieces: queue.Queue[tuple[float, bytes]] = queue.Queue()

        def take() -> None:
            piece = b"-"
            with ours, theirs:
                while piece:
                    piece = theirs.recv(1 << 16)
                    pieces.put((time.monotonic() + self._delay, piece))

        def give() -> None:
            with contextlib.suppress(OSError):
                while True:
                    due, piece = pieces.get()
                    time.sleep(max(0.0, due - time.monotonic()))
                    if not piece:
                        return sink.shutdown(socket.SHUT_WR)
                    sink.sendall(piece)

        for work in (take, give):
            threading.Thread(target=work, daemon=True).start()
        return ours

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        while True:
            try:
                piece = source.recv(1 << 16)
            except OSError:
                piece = b""
            with self._lock:
                limit = self._limits.get(direction)
                is_last = limit is not None and self.passed[direction] + len(piece) >= limit
                if is_last:
                    self._limits = {}
                piece = piece[: limit - self.passed[direction]] if is_last and limit is not None else piece
                self.passed[direction] += len(piece)
            try:
                sink.sendall(piece)
                if not piece:
                    sink.shutdown(socket.SHUT_WR)
            except OSError:
                piece = b""
            if is_last:
                time.sleep(0.02)  # what was let through arrives
                self.cut()
                return
            if not piece:
                return

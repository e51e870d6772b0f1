"""ProxyCommand: a command of the user's own configuration whose stdin and stdout are the line to a host."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading

__all__ = ["ProxyCommand"]


class ProxyCommand(socket.socket):
    """Our end of the line to a command that runs; closing it ends the command.

    Parameters
    ----------
    command : str
        As the configuration has it, its tokens replaced; the user's shell reads it, as ssh does it.
    """

    def __init__(self, command: str) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours.family, ours.type, ours.proto, fileno=ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._starter = os.getpid()
        # Whenever it ends, it is waited for, so that it leaves no zombie.
        threading.Thread(target=self._process.wait, name="nexa-ssh-proxy", daemon=True).start()

    def close(self) -> None:
        """Close it, and end the command with whatever it has started; in a process that was forked only close it."""
        super().close()
        if self._starter == os.getpid() and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)

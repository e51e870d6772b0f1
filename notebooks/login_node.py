"""A login node to try SSH with: an sshd of your own, on this machine's loopback, that ends with this process.

It needs OpenSSH (``apt-get install openssh-server openssh-client``) and no root.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """Return a port of the loopback that is free, and below those of which a connection is given any."""
    while True:
        port = random.randrange(14_000, 20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class LoginNode:
    """An sshd for the user who runs this.

    Parameters
    ----------
    folder : Path
        For its keys and its configuration; it is made.
    environment : mapping of str to str
        What commands find set there, `Cluster("sandbox").environment` for one.
    name : str
        What the client's configuration calls it.

    Attributes
    ----------
    port : int
    config : Path
        The client's configuration: ``ssh -F``, ``$NEXA_SSH_CONFIG``.
    fingerprint : str
        Of its key, as ``ssh-keygen -l`` prints it.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, name: str = "login") -> None:
        if SSHD is None:
            raise RuntimeError("there is no sshd here; get it by: apt-get install openssh-server")
        self.folder, self.port, self.config = folder, free_port(), folder / "ssh_config"
        folder.mkdir(parents=True)
        for key in ("host", "id"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        shutil.copy(folder / "id.pub", folder / "authorized")
        told = subprocess.run(["ssh-keygen", "-l", "-f", folder / "host.pub"], check=True, capture_output=True, text=True)
        self.fingerprint = told.stdout.split()[1]
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
            f"Subsystem sftp internal-sftp\nStrictModes no\nPasswordAuthentication no\nUsePAM no\nMaxStartups 100\nPidFile {folder}/pid\n"
            # bash that sshd starts reads ~/.bashrc unless it is told that it is not the first
            f"SetEnv SHLVL=5 {' '.join(f'{key}={value}' for key, value in environment.items())}\n"
        )
        self.config.write_text(
            f"Host {name}\n  HostName 127.0.0.1\n  Port {self.port}\nMatch host {name},127.0.0.1\n  IdentityFile {folder}/id\n"
            f"  IdentitiesOnly yes\n  IdentityAgent none\n  HostKeyAlias {name}\n  UserKnownHostsFile {folder}/known\n"
            "  GlobalKnownHostsFile none\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.stop)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert SSHD is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen([SSHD, "-D", "-e", "-f", self.folder / "sshd_config"], stdin=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 10) as line:
                if line.recv(4) == b"SSH-":
                    return
            if time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        """End it, and every connection to it."""
        if self._process is not None:
            told = subprocess.run(["pgrep", "-P", str(self._process.pid)], check=False, capture_output=True, text=True)
            self._process.terminate()
            self._process.wait(60)
            for connection in told.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(connection), signal.SIGTERM)
            self._process = None

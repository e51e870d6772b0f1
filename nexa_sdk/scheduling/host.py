"""One bare machine: what :mod:`nexa_sdk.scheduling.machine` does there, by one command a question."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from nexa_sdk.errors import ClusterNotFound, CommandFailed
from nexa_sdk.scheduling import machine, supervisor
from nexa_sdk.scheduling.environment import for_trials
from nexa_sdk.transports.base import Transport

__all__ = ["Host"]

EQUIP = 60.0  # seconds
_NOT_THERE, _TOO_OLD, _LACKING = 97, 96, 95

_CALL = """
tools=$HOME/.nexa/tools/$1
[ -e "$tools/machine.py" ] || exit 97
exec python3 -I -S "$tools/machine.py" "$2"
"""

# Once a version. What was cut short on its way is not taken.
_EQUIP = r"""
for program in python3 bash tar; do
  command -v "$program" > /dev/null || { echo "$program"; exit 95; }
done
python3 -I -c 'import sys; sys.exit(sys.version_info < (3, 6))' || { python3 -V 2>&1; exit 96; }
umask 077
mkdir -p "$HOME/.nexa/tools" && cd "$HOME/.nexa/tools" || exit 73
part=$1.$$.part
trap 'rm -rf "$part"' EXIT
trap 'exit 143' HUP INT TERM
mkdir "$part" && tar -xf - -C "$part" && rm "$part/complete" || exit 74
mv -T "$part" "$1" 2> /dev/null || [ -e "$1/machine.py" ] || exit 73
"""


class Host:
    """A bare machine.

    Parameters
    ----------
    name : str
        What begins the ids of its jobs.
    transport : Transport
    """

    def __init__(self, name: str, transport: Transport) -> None:
        self.name = name
        self.transport = transport
        self._equipping = threading.Lock()

    @property
    def home(self) -> str:
        """Where the locks of its cores and GPUs lie: where the embedded scheduler of a notebook there has them too."""
        return f"{self.transport.environment().get('HOME', '')}/.nexa/local"

    @property
    def user(self) -> str:
        """Who its trials belong to there."""
        return self.transport.environment().get("USER", "")

    def trials_environment(self) -> dict[str, str]:
        """Return what its trials start from."""
        return for_trials(self.transport.environment())

    def call(self, verb: str, request: Mapping[str, Any], payload: bytes = b"", *, timeout: float) -> Any:
        """Ask the machine, and return its answer; what it needs for that is sent the first time.

        Raises
        ------
        machine.Refused
            In its own words.
        ClusterNotFound
            Python or another program is missing there.
        CommandFailed
            It gave no answer that can be read: what it did may have happened.
        ClusterError
            As the transport raises it.
        """
        text = json.dumps(request).encode()
        stdin = b"%d %d\n" % (len(text), len(payload)) + text + payload
        argv = ["sh", "-c", _CALL, "nexa-machine", _tools()[0], verb]
        answer = self.transport.run(argv, env=self._environment(), stdin=stdin, timeout=timeout)
        if answer.returncode == _NOT_THERE:
            with self._equipping:
                self._equip()
            answer = self.transport.run(argv, env=self._environment(), stdin=stdin, timeout=timeout)
        if answer.returncode:
            raise CommandFailed("python3", answer.returncode, f"{self.name}: {answer.stderr.strip()}")
        try:
            told = json.loads(answer.stdout)
        except ValueError as error:
            raise CommandFailed("python3", 0, f"{self.name} gave no answer that can be read: {answer.stdout[:200]!r}") from error
        if "refused" in told:
            raise machine.Refused(told["refused"], told["words"])
        return told["answer"]

    def _environment(self) -> dict[str, str]:
        login = self.transport.environment()
        kept = {name: login[name] for name in ("HOME", "PATH", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH") if name in login}
        return dict({"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, **kept)

    def _equip(self) -> None:
        """Send the two files, into ``~/.nexa/tools/<digest>``."""
        digest, packed = _tools()
        answer = self.transport.run(["sh", "-c", _EQUIP, "nexa-equip", digest], env=self._environment(), stdin=packed, timeout=EQUIP)
        needs = "a bare machine needs Python 3.6 or later (as python3, on the PATH of a login), bash and tar; nexa_sdk need not be there"
        if answer.returncode == _LACKING:
            raise ClusterNotFound(f"{self.name} has no {answer.stdout.strip()}: {needs}")
        if answer.returncode == _TOO_OLD:
            raise ClusterNotFound(f"{self.name} has {answer.stdout.strip() or 'a python3 that does not start'}: {needs}")
        if answer.returncode:
            raise CommandFailed("sh", answer.returncode, f"{self.name}: ~/.nexa/tools can't be written: {answer.stderr.strip()}")


@cache
def _tools() -> tuple[str, bytes]:
    """Return what the machine runs, as a tar, and its digest."""
    files = {Path(str(module.__file__)).name: Path(str(module.__file__)).read_bytes() for module in (machine, supervisor)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in [*files.items(), ("complete", b"")]:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return hashlib.sha256(b"\0".join(files.values())).hexdigest()[:16], packed.getvalue()

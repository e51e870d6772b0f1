"""The folder of a sandbox: what lies in it, who may change it, and the marker by which it is known."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from nexa_sdk.errors import SandboxError
from nexa_sdk.scheduling.slurm.sandbox.config import SandboxSite, SandboxSpec, configuration

__all__ = ["SandboxFolder", "SandboxRecord"]

# A unix socket's path has at most 107 bytes, and MariaDB, munge and slurmstepd put theirs below the folder.
_LONGEST = 80

_MARKER = "sandbox.json"
_LOCK = "lock"
_OPEN = ("etc", "run", "log", "spool", "gpus")
_PRIVATE = ("state", "db", "tmp")


@dataclass(frozen=True, kw_only=True)
class SandboxRecord:
    """What the marker says: what the sandbox is made of, where it ran last, whether it was ever ready."""

    spec: SandboxSpec
    site: SandboxSite
    was_ready: bool = False

    def text(self) -> str:
        """Return the marker's text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def parse(cls, text: str) -> SandboxRecord:
        """Read a marker's text."""
        fields = json.loads(text)
        spec, site = fields["spec"], fields["site"]
        return cls(
            spec=SandboxSpec(**{**spec, "extra": tuple(spec["extra"])}),
            site=SandboxSite(**{**site, "version": tuple(site["version"]), "ports": tuple(site["ports"])}),
            was_ready=fields["was_ready"],
        )


@dataclass(frozen=True)
class SandboxFolder:
    """A folder in which a sandbox lies or may be made."""

    path: Path

    def check(self) -> None:
        """Raise SandboxError if no sandbox could work in a folder of this name."""
        if len(str(self.path)) > _LONGEST:
            raise SandboxError(
                f"{self.path} has {len(str(self.path))} characters, too many for the unix sockets below it: "
                f"give a folder of at most {_LONGEST}"
            )
        if not re.fullmatch(r"[A-Za-z0-9/._+~-]+", str(self.path)):
            raise SandboxError(f"{str(self.path)!r} can't be written in slurm.conf: use letters, digits and / . _ + ~ -")

    @contextmanager
    def locked(self, *, create: bool = False) -> Iterator[None]:
        """Keep other processes from changing this sandbox meanwhile."""
        path = self.path / _LOCK
        while True:
            if create:
                self._claim()
            try:
                lock = path.open("a")
            except OSError as error:
                raise SandboxError(f"the sandbox in {self.path} can't be used: {error.strerror}") from error
            with lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    yield
                    return
            # Whoever held the lock has removed the folder: look again.

    def read(self) -> SandboxRecord | None:
        """Return the marker's record, or None if there is no sandbox."""
        try:
            return SandboxRecord.parse((self.path / _MARKER).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SandboxError(f"{self.path / _MARKER} can't be read ({error}): remove the folder") from error

    def record(self) -> SandboxRecord:
        """Return the marker's record; raise SandboxError if there is no sandbox."""
        record = self.read()
        if record is None:
            raise SandboxError(f"there is no sandbox in {self.path}: start() makes one")
        return record

    def write(self, record: SandboxRecord) -> None:
        """Write the marker, whole or not at all."""
        part = self.path / f"{_MARKER}.part"
        part.write_text(record.text(), encoding="utf-8")
        part.replace(self.path / _MARKER)

    def lay_out(self, spec: SandboxSpec) -> None:
        """Make the folders, the GPUs and munge's key anew: nothing that was there is kept."""
        for name in (*_OPEN, *_PRIVATE):
            for _ in range(20):  # what is just ending may write there still
                shutil.rmtree(self.path / name, ignore_errors=True)
                if not (self.path / name).exists():
                    break
                time.sleep(0.1)
            (self.path / name).mkdir(mode=0o700 if name in _PRIVATE else 0o755)
        for node in spec.node_names:
            (self.path / "spool" / node).mkdir()
        for number in range(spec.gpus_per_node):
            # With a plain file jobs get no CUDA_VISIBLE_DEVICES. It must be a character device: making one
            # takes root, linking to one does not.
            (self.path / "gpus" / f"nvidia{number}").symlink_to("/dev/null")
        _write(self.path / "etc" / "munge.key", secrets.token_bytes(1024), mode=0o600)

    def configure(self, record: SandboxRecord) -> None:
        """Write the configuration files, and the marker with what they were made from."""
        for name, text in configuration(record.spec, record.site).items():
            mode = 0o600 if name == "slurmdbd.conf" else 0o644  # slurmdbd insists on it
            _write(self.path / "etc" / name, text.encode(), mode=mode)
        self.write(record)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.path)

    def _claim(self) -> None:
        """Make the folder, or see that there is nothing of somebody else's in it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            names = {path.name for path in self.path.iterdir()}
        except OSError as error:
            raise SandboxError(f"no sandbox can be made in {self.path}: {error.strerror}") from error
        if names and not names & {_LOCK, _MARKER}:
            raise SandboxError(f"{self.path} is not empty and holds no sandbox: give a folder of its own")


def _write(path: Path, content: bytes, *, mode: int) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)

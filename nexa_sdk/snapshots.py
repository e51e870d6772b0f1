"""Snapshots: the code of a project as it was at a launch, on a cluster that does not see this machine's files.

Beside the runs, ``.code/`` holds each snapshot once, by its digest: ``tree/``, and ``files``, a line
for each file with its hash and kind. A new one shares what is the same with the newest of the same
project by hard links, so that only what changed travels. A run gets links of its own. The files are
read-only: what writes into one would write into others' too. Files that somebody purged are missed
by their number, and all of it is sent again. A snapshot that no launch has used for a month is removed;
runs keep their links.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
import time
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote_to_bytes

from nexa_sdk.errors import ClusterError, CommandFailed, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nexa_sdk.project_files import Project
    from nexa_sdk.transports.base import Transport

__all__ = ["Snapshot"]

LARGEST, MUCH = 1 << 30, 1 << 20  # bytes
QUESTION, TRANSFER = 60.0, 1800.0  # seconds
ATTEMPTS = 3

_WHOLE = r"""
is_whole() { # whether a snapshot still has all of its files
  [ -f "$1/files" ] && [ "$(wc -l < "$1/files")" -eq "$(find "$1/tree" ! -type d -print0 | tr -cd '\0' | wc -c)" ]
}
"""

_ASK = f"""{_WHOLE}
store=$1 digest=$2 project=$3
cd -- "$store" 2> /dev/null || exit 0
if [ -d "$digest" ]; then
  if is_whole "$digest"; then touch -c "$digest"; echo there; exit; fi
  mv -T "$digest" "$digest.$$.part" && rm -rf "$digest.$$.part" # a run has links of its own
fi
read -r newest 2> /dev/null < "$project.newest" || exit 0
if is_whole "$newest"; then echo "$newest"; cat "$newest/files"; fi
"""

# What is gone or another goes before the new comes: a link that was written to would change its twins.
_TAKE = r"""
store=$1 digest=$2 project=$3 base=$4
mkdir -p -- "$store" && chmod 700 -- "$store" && cd -- "$store" || exit 73
part=$digest.$$.part
trap 'rm -rf "$part"' EXIT
trap 'exit 143' HUP INT TERM
mkdir "$part" || exit 73
cat > "$part/arrived.tar" || exit 73
tar -xf "$part/arrived.tar" -C "$part" files gone complete || exit 74
if [ "$base" != - ]; then
  cp -al "$base/tree" "$part/tree" 2> /dev/null || { rm -rf "$part/tree"; cp -a "$base/tree" "$part/tree"; } || exit 73
  (cd "$part/tree" && xargs -0 rm -f -- < ../gone) || exit 73
  find "$part/tree" -mindepth 1 -depth -type d -exec rmdir {} + 2> /dev/null || : # those that are empty now
fi
tar -xpof "$part/arrived.tar" -C "$part" && [ -e "$part/complete" ] || exit 74
mkdir -p "$part/tree"
rm -f "$part/arrived.tar" "$part/gone" "$part/complete"
mv -T "$part" "$digest" 2> /dev/null || [ -d "$digest" ] || exit 73
echo "$digest" > "$project.newest.$$" && mv -f "$project.newest.$$" "$project.newest"
find . -mindepth 1 -maxdepth 1 -type d -mtime +30 -exec rm -rf {} + 2> /dev/null || : # a month
"""


class Snapshot:
    """The code of a project, on its way to a cluster.

    Parameters
    ----------
    project : Project
    transport : Transport
        The cluster's.
    runs_folder : str
        Where its runs lie.

    Attributes
    ----------
    sent : int or None
        How many files travelled; None where it was there already.
    """

    def __init__(self, project: Project, transport: Transport, runs_folder: str) -> None:
        self.project = project
        self.sent: int | None = None
        self._transport = transport
        self._store = f"{runs_folder.rstrip('/')}/.code"

    @property
    def folder(self) -> str:
        """Where it lies on the cluster."""
        return f"{self._store}/{self.project.digest}"

    @property
    def tree(self) -> str:
        """Where its files lie on the cluster."""
        return f"{self.folder}/tree"

    def send(self) -> None:
        """Send what the cluster does not have of it; a line that goes meanwhile is tried again.

        Raises
        ------
        InvalidInput
            It is too large, or a file changed while it was read.
        ClusterError
        """
        if self.project.size > LARGEST:
            raise InvalidInput(
                f"{self.project.root} has {self.project.size / 1e9:.1f} GB, too much for code that goes along: name its data in "
                ".gitignore or .nexaignore, or give workdir=, a folder that is on the cluster already"
            )
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._send()
            except ClusterError as error:
                if not error.may_pass or attempt == ATTEMPTS:
                    raise
                time.sleep(attempt)
        return None

    def _send(self) -> None:
        told = self._run(_ASK, self.project.digest, self._name, timeout=QUESTION).splitlines()
        if told[:1] == ["there"]:
            self.sent = None
            return
        base = told[0] if told else None
        there = dict(line.split(" ", 1) for line in told[1:])
        ours = self._files()
        gone = [name for name in there if there[name] != ours.get(name)]
        new = [name for name in ours if ours[name] != there.get(name)]
        self._run(_TAKE, self.project.digest, self._name, base or "-", stdin=self._pack(ours, gone, new), timeout=TRANSFER)
        self.sent = len(new)

    @property
    def _name(self) -> str:
        """What snapshots of this project have in common: folder and machine."""
        return hashlib.sha256(f"{os.uname().nodename} {self.project.root}".encode(errors="surrogateescape")).hexdigest()[:16]

    def _files(self) -> dict[str, str]:
        """Return kind and hash of each file, by its name as a URL would have it."""
        return {quote_from_bytes(name): f"{kind.decode()} {content.hex()}" for name, kind, content, _ in self.project.contents}

    def _pack(self, ours: Mapping[str, str], gone: list[str], new: list[str]) -> bytes:
        packed = io.BytesIO()
        names = {quote_from_bytes(name): (name, kind, content) for name, kind, content, _ in self.project.contents}
        root = os.fsencode(self.project.root)
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as archive:
            _add(archive, "files", "".join(f"{name} {told}\n" for name, told in ours.items()).encode())
            _add(archive, "gone", b"".join(unquote_to_bytes(name) + b"\0" for name in gone))
            for quoted in new:
                name, kind, content = names[quoted]
                path = os.path.join(root, name)
                entry = tarfile.TarInfo(f"tree/{os.fsdecode(name)}")
                entry.mtime = int(os.lstat(path).st_mtime)
                if kind == b"l":
                    entry.type, entry.linkname = tarfile.SYMTYPE, os.fsdecode(os.readlink(path))
                    archive.addfile(entry)
                    continue
                with open(path, "rb") as file:
                    data = file.read()
                if hashlib.sha256(data).digest() != content:
                    raise InvalidInput(f"{os.fsdecode(path)} changed while it was sent; launch again")
                entry.size, entry.mode = len(data), 0o555 if kind == b"x" else 0o444
                archive.addfile(entry, io.BytesIO(data))
            _add(archive, "complete", b"")
        return packed.getvalue()

    def _run(self, script: str, *arguments: str, stdin: bytes = b"", timeout: float) -> str:
        environment = self._transport.bare_environment()
        transport = self._transport.for_bulk() if len(stdin) > MUCH else self._transport
        answer = transport.run(["sh", "-c", script, "nexa-code", self._store, *arguments], env=environment, stdin=stdin, timeout=timeout)
        if answer.returncode:
            raise CommandFailed("sh", answer.returncode, f"the code can't be stored in {self._store}: {answer.stderr.strip()}")
        return answer.stdout


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), stat.S_IRUSR | stat.S_IWUSR, int(time.time())
    archive.addfile(entry, io.BytesIO(content))

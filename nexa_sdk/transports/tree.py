"""A folder of a cluster that files go to or come from: what is there, its list of what is ours, and deleting by that list."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexa_sdk.errors import ClusterError, CommandFailed
from nexa_sdk.manifest import OURS, Manifest
from nexa_sdk.transports.moving import Limit

if TYPE_CHECKING:
    from nexa_sdk.transports.base import Completed, Transport

__all__ = ["Entry", "Seen", "Tree"]

QUESTION, LONG = 60.0, 600.0  # seconds: for what looks at one folder, and for what looks at every file
ABSENT, EMPTY, OTHER, OWN, SAME = "absent", "empty", "other", "ours", "same"
NO_FOLDER = "no-folder"

# What rsync there is, what the folder is, and the list of what is ours if it is not the one that is expected.
_LOOK = r"""
folder=$1 ours=$2 expected=$3
command -v rsync || echo
{ rsync --version 2> /dev/null || echo; } | head -n 1
if [ ! -e "$folder" ] && [ ! -L "$folder" ]; then echo absent
elif [ ! -d "$folder" ]; then echo no-folder
elif [ -f "$folder/$ours/files" ]; then
  read -r head < "$folder/$ours/files"
  if [ "$head" = "$expected" ]; then echo same; else echo ours; cat -- "$folder/$ours/files"; fi
else
  there=$(ls -A -- "$folder") || exit 73
  if [ -z "$there" ] || [ "$there" = "$ours" ]; then echo empty; else echo other; fi
fi
"""

# A list that a broken line cuts short takes no other's place.
_WRITE = r"""
folder=$1 ours=$2 size=$3
mkdir -p -- "$folder" && cd -- "$folder" && mkdir -p -m 700 "$ours" "$ours/partial" || exit 73
part=$ours/files.$$
trap 'rm -f "$part"' EXIT
cat > "$part" || exit 73
[ "$(wc -c < "$part")" -eq "$size" ] || { echo "the list arrived in part" >&2; exit 74; }
mv -f "$part" "$ours/files"
"""

# What a link leads to lies elsewhere, and a folder where a file of ours was is somebody else's.
_DELETE = r"""
cd -- "$1" || exit 73
files=() folders=()
while IFS= read -r -d '' name; do
  parent=./${name%/}
  while parent=${parent%/*}; [ "$parent" != . ]; do [ ! -L "$parent" ] || continue 2; done
  case $name in
    */) [ -L "./${name%/}" ] || folders+=("./${name%/}") ;;
    *) if [ -L "./$name" ] || [ -f "./$name" ]; then files+=("./$name"); fi ;;
  esac
done
[ ${#files[@]} -eq 0 ] || printf '%s\0' "${files[@]}" | xargs -0 rm -f -- || exit 73
for folder in "${folders[@]}"; do rmdir -- "$folder" 2> /dev/null || :; done # those that are empty now
"""

_STAT = r"""cd -- "$1" 2> /dev/null || exit 0; xargs -0 stat --printf='%s %Y %f %n\0' -- 2> /dev/null | base64"""

_FOLDERS = r"""cd -- "$1" && xargs -0 mkdir -p --"""

# What is young another sync may be at.
_TIDY = r"""cd -- "$1" && find "./$2/partial" -type f -mmin +10 -exec rm -f -- {} + """

_DIGEST = r"""
cd -- "$1" || exit 73
if command -v sha256sum > /dev/null 2>&1; then sha256sum -- "$2"; else shasum -a 256 -- "$2"; fi
"""

_ROOM = r"""cd -- "$1" && head -c 65536 /dev/zero > "$2/room"; code=$?; rm -f -- "$2/room"; exit $code"""

_FIND = r"""
command -v rsync || echo
{ rsync --version 2> /dev/null || echo; } | head -n 1
cd -- "$1" 2> /dev/null || exit 0
shift
starts=()
for start; do [ ! -e "./$start" ] || starts+=("./$start"); done
[ ${#starts[@]} -gt 0 ] || exit 0
find -L "${starts[@]}" -type f -printf '%s %T@ %p\0' | base64
exit "${PIPESTATUS[0]}"
"""


@dataclass(frozen=True)
class Seen:
    """What there is at a destination.

    Attributes
    ----------
    state : str
        ``absent``, ``empty``, ``no-folder``, ``other`` (not empty, and not ours), ``ours`` or ``same`` (ours, with the very list).
    manifest : Manifest or None
        The list that is there, where it is ours and another than expected.
    rsync, version : str
        The rsync of the cluster, and what it says of itself; empty where there is none.
    """

    state: str
    manifest: Manifest | None
    rsync: str
    version: str


@dataclass(frozen=True)
class Entry:
    """A file of the cluster.

    Attributes
    ----------
    size : int
        Bytes.
    mtime : float
        Seconds since 1970.
    mode : int
        As :mod:`stat` reads it.
    """

    size: int
    mtime: float
    mode: int = 0


class Tree:
    """A folder of a cluster.

    Parameters
    ----------
    transport : Transport
    folder : str
        Its whole path.
    limit : Limit, optional
        The time that is left for all questions.
    """

    def __init__(self, transport: Transport, folder: str, limit: Limit | None = None) -> None:
        self.folder = folder
        self._limit = limit or Limit(None)
        self._transport = transport

    def look(self, expected: Manifest) -> Seen:
        """Say what is there."""
        program, version, state, *rest = self._run(_LOOK, OURS, expected.head).split("\n")
        manifest = Manifest.read("\n".join(rest), where=f"{self.folder}/{OURS}/files") if state == OWN else None
        return Seen(state, expected if state == SAME else manifest, program, version)

    def write(self, manifest: Manifest) -> None:
        """Write the list of what is ours; the folder is made if need be."""
        self._run(_WRITE, OURS, str(len(manifest.text)), stdin=manifest.text)

    def delete(self, names: Sequence[bytes]) -> None:
        """Delete files, and those folders (they end with a slash) that are empty then; nothing to which a link leads."""
        if names:
            self._run(_DELETE, stdin=_joined(names), timeout=LONG)

    def stat(self, names: Sequence[bytes]) -> dict[bytes, Entry]:
        """Tell of those files that are there; of a link itself."""
        told = self._run(_STAT, stdin=_joined(b"./" + name for name in names), timeout=LONG) if names else ""
        found = {}
        for record in _records(told):
            size, mtime, mode, name = record.split(b" ", 3)
            found[name[2:]] = Entry(int(size), float(mtime), int(mode, 16))
        return found

    def make_folders(self, names: Sequence[bytes]) -> None:
        """Make folders within it."""
        if names:
            self._run(_FOLDERS, stdin=_joined(b"./" + name for name in names))

    def tidy(self) -> None:
        """Remove what earlier syncs that were cut left half there."""
        self._run(_TIDY, OURS)

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a file of ours."""
        return self._run(_DIGEST, name, timeout=LONG).partition(" ")[0]

    def why_full(self) -> str:
        """Try to write a little, and return what the system says against it; nothing where it can be written."""
        try:
            self._run(_ROOM, OURS)
        except CommandFailed as error:
            return error.stderr
        return ""

    def find(self, starts: Iterable[str]) -> tuple[dict[bytes, Entry], Seen]:
        """List all files below some paths, following links; of the folder only which rsync there is is said."""
        answer = self._ask(_FIND, *starts, timeout=LONG)
        real = [line for line in answer.stderr.splitlines() if "No such file" not in line and "File system loop" not in line]
        if answer.returncode and real:
            raise CommandFailed("find", answer.returncode, f"{self.folder} can't be searched: {'; '.join(real[:5])}")
        program, version, *rest = answer.stdout.split("\n")
        found = {}
        for record in _records("".join(rest)):
            size, mtime, path = record.split(b" ", 2)
            name = path.removeprefix(b"./").removeprefix(b"./")
            if name.startswith(b"/") or b".." in name.split(b"/"):  # it would be written outside of the folder here
                raise ClusterError(f"{self.folder} is said to hold {path!r}, which no search finds there; nothing was brought from it")
            found[name] = Entry(int(size), float(mtime))
        return found, Seen("", None, program, version)

    def _run(self, script: str, *arguments: str, stdin: bytes = b"", timeout: float = QUESTION) -> str:
        answer = self._ask(script, *arguments, stdin=stdin, timeout=timeout)
        if answer.returncode:
            raise CommandFailed("bash", answer.returncode, f"{self.folder}: {answer.stderr.strip()}")
        return answer.stdout

    def _ask(self, script: str, *arguments: str, stdin: bytes = b"", timeout: float = QUESTION) -> Completed:
        argv = ["bash", "--norc", "-c", script, "nexa-tree", self.folder, *arguments]
        self._limit.check()
        return self._transport.run(argv, env=self._transport.bare_environment(), stdin=stdin, timeout=self._limit.at_most(timeout))


def _joined(names: Iterable[bytes]) -> bytes:
    return b"".join(name + b"\0" for name in names)


def _records(told: str) -> list[bytes]:
    try:
        return base64.b64decode(told).split(b"\0")[:-1]
    except binascii.Error as error:
        raise ClusterError("a list of files came back in part; try again") from error

"""rsync's words: its command line, what it prints, and what it says when it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from nexa_sdk.transports.moving import Item, Moved

__all__ = ["Reader", "command", "environment", "explain", "is_exact", "is_usable", "shell"]

SILENCE = 300  # seconds without a byte after which both ends give up
GONE = 24  # exit status: files went while they were read
NEEDED = (3, 1, 0)  # --info=progress2, --ignore-missing-args
EXACT = (3, 1, 3)  # --modify-window=-1: times differ by their nanoseconds, too

_VERSION = re.compile(r"rsync\s+version\s+v?(\d+)\.(\d+)\.(\d+)")
_PROGRESS = re.compile(rb"\s*(\d+)\s+(\d+)%\s+([\d.]+)([kMGT]?)B/s\s+(\d+):(\d\d):(\d\d)")
_ITEM = re.compile(rb"([<>ch.])([fL])(\S{9}) (\d+) (.+)", re.DOTALL)
_UNITS = {b"": 1, b"k": 1 << 10, b"M": 1 << 20, b"G": 1 << 30, b"T": 1 << 40}


def _version(told: str) -> tuple[int, ...]:
    found = _VERSION.search(told)
    return tuple(map(int, found.groups())) if found else ()


def is_usable(told: str) -> bool:
    """Whether ``rsync --version`` tells of one that can be used; macOS's own, openrsync, can't."""
    return _version(told) >= NEEDED


def is_exact(told: str) -> bool:
    """Whether it compares times to the nanosecond."""
    return _version(told) >= EXACT


def shell(words: Sequence[str]) -> str:
    """Write the words of a remote shell as ``-e`` takes them: rsync splits at spaces, and knows quotes of its own."""
    return " ".join("'" + word.replace("'", "''") + "'" for word in words)


def command(
    source: bytes,
    target: bytes,
    *,
    partial: bytes,
    through: str | None = None,
    exact: bool = True,
    follow: bool = False,
    dry_run: bool = False,
    names: Sequence[bytes] | None = None,
) -> list[str | bytes]:
    """Return the command line.

    Parameters
    ----------
    source, target : bytes
        Folders; ``nexa:./`` is the one in which the other end's rsync is started.
    partial : bytes
        Where the target keeps files that are half there; it exists.
    through : str, optional
        The remote shell, as :func:`shell` writes it.
    follow : bool
        Bring what links lead to, instead of links.
    names : sequence of bytes, optional
        The files, where they fit into a command line; it is then run in the source. Else they come by
        stdin, each ended by a NUL, which rsync reads a byte at a time: as long as all else that it does.
    """
    return [
        "rsync",
        "-s",  # --secluded-args, --protect-args in older ones: no shell reads a path
        *(["--from0", "--files-from=-"] if names is None else ["--relative"]),
        *(["--copy-links"] if follow else ["--links", "--perms"]),
        "--times",
        "--omit-dir-times",
        "--no-implied-dirs",  # a link there that leads to a folder stays
        "--ignore-missing-args",
        b"--partial-dir=" + partial,
        b"--temp-dir=" + partial,  # what is killed leaves nothing beside the files
        f"--timeout={SILENCE}",
        *(["--modify-window=-1"] if exact else []),
        "--no-human-readable",
        "--out-format=%i %l %n",
        "--info=progress2",
        *(["--dry-run"] if dry_run else []),
        *(["-e", through] if through is not None else []),
        "--",
        *([source] if names is None else [b"./" + name for name in names]),
        target,
    ]


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return its environment: what would change its options is left out, and it speaks English."""
    kept = {name: value for name, value in inherited.items() if not name.startswith("RSYNC_")}
    return {**kept, "LC_ALL": "C"}


class Reader:
    """Reads what rsync prints, in pieces of any length: a line for each file, and progress between them."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Item | Moved]:
        """Yield what a piece completes."""
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + piece)
        for line in lines:
            if found := _ITEM.fullmatch(line):
                name = re.sub(rb"\\#(\d{3})", lambda match: bytes([int(match[1], 8)]), found[5])
                yield Item(name, int(found[4]) if found[2] == b"f" else 0, found[3].startswith(b"+"))
            elif found := _PROGRESS.match(line):
                hours, minutes, seconds = map(int, found.groups()[4:])
                rate = float(found[3]) * _UNITS[found[4]]
                yield Moved(int(found[1]), int(found[2]) / 100, rate, hours * 3600 + minutes * 60 + seconds)


def explain(stderr: str) -> str:
    """Return what of rsync's words a person needs, and what to do."""
    said = [line for line in stderr.splitlines() if line.strip() and not line.startswith("rsync error:")]
    words = "; ".join(dict.fromkeys(said[:5])) or stderr.strip()
    if re.search(r"No space left|quota exceeded", stderr, re.IGNORECASE):
        words += ". What arrived is kept: make room there, and the same again goes on"
    return words

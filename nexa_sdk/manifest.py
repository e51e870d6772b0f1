"""What a sync put into a folder of a cluster: its own list, by which alone anything is ever deleted there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote, quote_from_bytes, unquote, unquote_to_bytes

from nexa_sdk.errors import ClusterError

__all__ = ["OURS", "Manifest", "folders_of"]

OURS = ".nexa-sync"  # the folder of ours in what is synced: the list, and files that are half there


@dataclass(frozen=True)
class Manifest:
    """A list of files.

    Attributes
    ----------
    source : str
        Whose they are: machine and folder of the project.
    names : frozenset of bytes
        Relative to the folder.
    """

    source: str
    names: frozenset[bytes]

    @cached_property
    def text(self) -> bytes:
        """What is written: a line that tells two lists apart, the source, and a line for each name, as a URL would have it."""
        lines = [quote(self.source, safe="/: "), *sorted(map(quote_from_bytes, self.names))]
        body = "".join(f"{line}\n" for line in lines).encode()
        return f"nexa-sync 1 {hashlib.sha256(body).hexdigest()}\n".encode() + body

    @property
    def head(self) -> str:
        """The first line."""
        return self.text[: self.text.index(b"\n")].decode()

    @classmethod
    def read(cls, text: str, *, where: str) -> Manifest:
        """Read what was written.

        Raises
        ------
        ClusterError
            It is no such list, or names what lies elsewhere.
        """
        head, *lines = text.splitlines() or [""]
        if not head.startswith("nexa-sync 1 ") or not lines:
            raise ClusterError(f"{where} is no list of synced files, or of a later nexa_sdk; nothing was changed there")
        names = frozenset(map(unquote_to_bytes, lines[1:]))
        for name in names:
            if not name or name.startswith(b"/") or b".." in name.split(b"/") or OURS.encode() in name.split(b"/") or b"\0" in name:
                raise ClusterError(
                    f"{where} names {name!r}, which no sync puts there; nothing was changed. Look at it, and mend or remove it"
                )
        return cls(unquote(lines[0]), names)

    def gone(self, now: Iterable[bytes]) -> list[bytes]:
        """Name what stands here and is not there now, then the folders that nothing is in now, which end with a slash, inner ones first."""
        kept = frozenset(now)
        folders = folders_of(self.names) - folders_of(kept) - kept
        return [
            *sorted(self.names - kept),
            *(folder + b"/" for folder in sorted(folders, key=lambda folder: (-folder.count(b"/"), folder))),
        ]

    def in_the_way(self, now: Iterable[bytes]) -> list[bytes]:
        """Of what is gone, name what lies where something of another kind comes: a folder where there was a file, or the reverse."""
        kept = frozenset(now)
        folders = folders_of(kept)
        return [name for name in self.gone(kept) if name in folders or any(folder in kept for folder in _above(name.rstrip(b"/")))] + [
            name + b"/" for name in sorted(kept & folders_of(self.names))
        ]


def folders_of(names: Iterable[bytes]) -> frozenset[bytes]:
    """Return the folders that files are in, the root left aside."""
    return frozenset(folder for name in names for folder in _above(name))


def _above(name: bytes) -> Iterator[bytes]:
    end = name.rfind(b"/")
    while end > 0:
        yield name[:end]
        end = name.rfind(b"/", 0, end)

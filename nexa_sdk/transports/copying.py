"""Move files by copying them, within this machine, where it has no rsync."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Sequence

from nexa_sdk.errors import CommandFailed
from nexa_sdk.manifest import OURS
from nexa_sdk.transports.moving import Item, Limit, Mover, Told
from nexa_sdk.transports.pace import Pace

__all__ = ["CopyMover"]


class CopyMover(Mover):
    """Copies."""

    by = "copying"

    def push(self, root: bytes, names: Sequence[bytes], folder: str, *, told: Told, limit: Limit, dry_run: bool = False) -> None:
        """Copy what differs; see the base class."""
        self._copy(root, names, os.fsencode(folder), told=told, limit=limit, dry_run=dry_run, follow=False)

    def pull(self, folder: str, names: Sequence[bytes], to: bytes, *, told: Told, limit: Limit) -> None:
        """Copy what differs; see the base class."""
        self._copy(os.fsencode(folder), names, to, told=told, limit=limit, dry_run=False, follow=True)

    @staticmethod
    def _copy(source: bytes, names: Sequence[bytes], target: bytes, *, told: Told, limit: Limit, dry_run: bool, follow: bool) -> None:
        changed = []
        for name in names:
            try:
                theirs = os.stat(os.path.join(source, name), follow_symlinks=follow)
            except FileNotFoundError:  # it went meanwhile
                continue
            try:
                ours = os.lstat(os.path.join(target, name))
            except (FileNotFoundError, NotADirectoryError):
                ours = None
            if ours is None or not _is_same(os.path.join(source, name), theirs, os.path.join(target, name), ours, follow=follow):
                changed.append(Item(name, theirs.st_size, ours is None))
        if dry_run:
            for item in changed:
                told(item)
            return
        store = os.path.join(target, os.fsencode(OURS), b"partial")
        os.makedirs(store, exist_ok=True)
        pace = Pace(sum(item.size for item in changed), told)
        for item in changed:
            limit.check()
            partial, end = os.path.join(store, uuid.uuid4().hex.encode()), os.path.join(target, item.name)
            try:
                shutil.copy2(os.path.join(source, item.name), partial, follow_symlinks=follow)
                os.makedirs(os.path.dirname(end), exist_ok=True)
                os.replace(partial, end)
            except OSError as error:
                if os.path.lexists(partial):
                    os.unlink(partial)
                raise CommandFailed("copying", error.errno or 1, f"{os.fsdecode(end)}: {error.strerror}") from error
            told(item)
            pace.add(item.size)


def _is_same(source: bytes, theirs: os.stat_result, target: bytes, ours: os.stat_result, *, follow: bool) -> bool:
    if stat.S_IFMT(ours.st_mode) != stat.S_IFMT(theirs.st_mode):
        return False
    if stat.S_ISLNK(ours.st_mode):
        return os.readlink(source) == os.readlink(target)
    is_alike = (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)
    return is_alike and (follow or ours.st_mode == theirs.st_mode)

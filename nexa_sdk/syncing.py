"""Sync: make a folder of a cluster what the project is here, and delete nothing that a sync did not put there."""

from __future__ import annotations

import contextlib
import itertools
import os
import posixpath
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from nexa_sdk import settings
from nexa_sdk.errors import ClusterError, CommandTimeout, InvalidInput
from nexa_sdk.manifest import OURS, Manifest
from nexa_sdk.project_files import Project, find_root
from nexa_sdk.transports import rsync
from nexa_sdk.transports.copying import CopyMover
from nexa_sdk.transports.moving import ChangedThere, Item, Limit, Moved, Mover
from nexa_sdk.transports.rsync_mover import RsyncMover, version_here
from nexa_sdk.transports.tree import ABSENT, EMPTY, NO_FOLDER, OTHER, SAME, Seen, Tree

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.cluster import Cluster
    from nexa_sdk.transports.base import Transport

__all__ = ["Synced", "Tally", "choose_mover", "persist", "progress_of", "sync", "together"]

TRIES, MOST = 5, 50  # in a row in which next to nothing moves, and in all
ENOUGH = 1 << 16  # bytes
SLOWEST = 15.0  # seconds between two tries
ADOPT = "adopt=True (--adopt): what is there then stays, except that files of the project take the place of their namesakes"

T = TypeVar("T")


@dataclass(frozen=True)
class Synced:
    """What a sync did.

    Attributes
    ----------
    source : str
        The project's folder here.
    destination : str
        The folder on the cluster, and what ``workdir=`` takes.
    cluster : str
    files : int
        How many the project has.
    sent, size : int
        How many of them went, and their bytes.
    deleted : int
        How many that an earlier sync had put there, and that the project has no more, were deleted.
    by : str
        What moved them.
    seconds : float
    """

    source: str
    destination: str
    cluster: str
    files: int
    sent: int
    size: int
    deleted: int
    by: str
    seconds: float
    rows: list[tuple[str, str, int | None]] = field(repr=False, compare=False)

    def changes(self) -> pd.DataFrame:
        """List what went and what was deleted, as a dry run does."""
        return _table(self.rows)

    def __repr__(self) -> str:
        gone = f", {self.deleted:,} deleted" if self.deleted else ""
        return (
            f"<Synced {self.source} to {self.destination} on {self.cluster}: {self.sent:,} of {self.files:,} files sent "
            f"({display_size(self.size)}){gone}, by {self.by} in {self.seconds:.1f} s>"
        )


def sync(
    cluster: Cluster,
    path: str | os.PathLike[str],
    destination: str | None,
    *,
    dry_run: bool,
    delete: bool,
    adopt: bool,
    include_runs: bool,
    timeout: float | None,
    progress: bool,
) -> Synced | pd.DataFrame:
    """Make a folder of a cluster what the project is; see :meth:`nexa_sdk.cluster.Cluster.sync`."""
    began, limit = time.monotonic(), Limit(_checked_time(timeout))
    root = find_root(path)
    names = _names(root, include_runs=include_runs)
    folder = _destination(cluster, root, destination)
    with progress_of(f"Syncing {root.name} to {folder} on {cluster.name}", shown=progress and not dry_run) as show:
        work = _Work(cluster, root, names, folder, limit, Tally(show), delete=delete, adopt=adopt)
        if dry_run:
            return work.preview()
        if not work.go_on_as_it_was():
            work.look_and_send()
    sent = work.tally.items.values()
    rows = [*_rows(sent), *(("delete", os.fsdecode(name), None) for name in work.deleted)]
    return Synced(
        source=str(root),
        destination=folder,
        cluster=cluster.url,
        files=len(names),
        sent=len(sent),
        size=sum(item.size for item in sent),
        deleted=len(work.deleted),
        by=work.by,
        seconds=time.monotonic() - began,
        rows=rows,
    )


def together(url: str, done: Mapping[str, Synced | pd.DataFrame]) -> Synced | pd.DataFrame:
    """Join what was done on several machines, or would be: the tables have a column `host` then."""
    import pandas as pd

    tables = {name: each for name, each in done.items() if isinstance(each, pd.DataFrame)}
    if tables:
        return pd.concat([table.assign(host=name) for name, table in tables.items()], ignore_index=True)
    synced = [each for each in done.values() if isinstance(each, Synced)]
    sums = {field: sum(getattr(each, field) for each in synced) for field in ("sent", "size", "deleted", "seconds")}
    return replace(
        synced[0],
        cluster=url,
        files=sum(each.files for each in synced),
        by=" and ".join(dict.fromkeys(each.by for each in synced)),
        rows=[row for each in synced for row in each.rows],
        **sums,
    )


class _Work:
    """One sync."""

    def __init__(
        self, cluster: Cluster, root: Path, names: list[bytes], folder: str, limit: Limit, tally: Tally, *, delete: bool, adopt: bool
    ) -> None:
        self.tally = tally
        self.deleted: list[bytes] = []
        self.by = ""
        self._cluster = cluster
        self._root = os.fsencode(root)
        self._names = names
        self._folder = folder
        self._limit = limit
        self._delete, self._adopt = delete, adopt
        self._tree = Tree(cluster.transport, folder, limit)
        # of which machine and which folder they are: what another put there is not deleted
        self._wanted = Manifest(f"{os.uname().nodename}:{self._root.decode(errors='backslashreplace')}", frozenset(names))

    def go_on_as_it_was(self) -> bool:
        """Send what changed at once, if there is the very list that would be written; False where there is another, and nothing was sent.

        The other end's rsync looks at that itself, which saves a question.
        """
        transport = self._cluster.transport
        seen = _seen.get(transport)
        if transport.is_here or seen is None or not _has_rsync(seen):
            return False
        mover = choose_mover(transport, seen, expected=self._wanted.head)
        try:
            persist(lambda: self._push(mover), self._limit, mover)
        except ChangedThere:
            return False
        return True

    def look_and_send(self) -> None:
        """Look what is there, send, and delete what is ours and gone."""
        seen, known = self._look()
        gone = known.gone(self._names) if self._delete and seen.state != SAME else []
        mover = choose_mover(self._cluster.transport, seen)

        def send() -> None:
            self._write_down(seen, known)
            self._tree.delete(known.in_the_way(self._names) if gone else [])
            self._push(mover)

        def settle() -> None:
            self._tree.delete(gone)
            self._tree.write(Manifest(self._wanted.source, self._wanted.names if self._delete else self._wanted.names | known.names))
            self._tree.tidy()

        persist(send, self._limit, mover)
        if seen.state != SAME:
            persist(settle, self._limit)
        self.deleted = [name for name in gone if not name.endswith(b"/")]

    def preview(self) -> pd.DataFrame:
        """List what would be done."""
        seen, known = self._look()
        if seen.state in (ABSENT, EMPTY):
            for name in self._names:
                self.tally(Item(name, os.lstat(os.path.join(self._root, name)).st_size, is_new=True))
        else:
            mover = choose_mover(self._cluster.transport, seen)
            push = partial(mover.push, self._root, self._names, self._folder, told=self.tally, limit=self._limit, dry_run=True)
            persist(push, self._limit, mover)
        gone = [name for name in known.gone(self._names) if not name.endswith(b"/")] if self._delete else []
        there = persist(lambda: self._tree.stat(gone), self._limit)
        return _table(
            [*_rows(self.tally.items.values()), *(("delete", os.fsdecode(name), there[name].size) for name in gone if name in there)]
        )

    def _look(self) -> tuple[Seen, Manifest]:
        seen = persist(lambda: self._tree.look(self._wanted), self._limit)
        known = _known(seen, self._wanted, f"{self._folder} on {self._cluster.url}", adopt=self._adopt)
        _seen[self._cluster.transport] = seen
        return seen, known

    def _push(self, mover: Mover) -> None:
        self.by = mover.by
        mover.push(self._root, self._names, self._folder, told=self.tally, limit=self._limit)

    def _write_down(self, seen: Seen, known: Manifest) -> None:
        """Write down what will be ours before it is sent, so that a sync that is cut for good leaves nothing unknown.

        What lies in an adopted folder is not ours before a file of the project has taken its place.
        """
        ours = self._wanted.names
        if self._adopt and not known.names and seen.state not in (ABSENT, EMPTY, SAME):
            ours = ours - self._tree.stat(sorted(ours)).keys()
        if seen.state != SAME and (not known.names or not ours <= known.names):
            self._tree.write(Manifest(self._wanted.source, known.names | ours))


_seen: WeakKeyDictionary[Transport, Seen] = WeakKeyDictionary()  # which rsync a cluster has, as it was seen last


def _checked_time(timeout: float | None) -> float | None:
    if timeout is not None and not timeout > 0:
        raise InvalidInput(f"timeout={timeout!r}: give seconds, more than 0, or None")
    return timeout


# ---- what, and where to ------------------------------------------------------------------------


def _names(root: Path, *, include_runs: bool) -> list[bytes]:
    """Name the project's files, less what is Nexa's own."""
    runs = settings.runs_folder()
    names = Project(root, without=[settings.home(), runs]).names
    if include_runs:
        if not runs.is_relative_to(root) or not runs.is_dir():
            raise InvalidInput(
                f"include_runs=True: this machine's runs lie in {runs}, outside of the project {root}; "
                "$NEXA_RUNS can name a folder within it. What a run on a cluster made comes back by run.fetch()"
            )
        found = (path for path in runs.rglob("*") if path.is_file() and "secrets" not in path.relative_to(runs).parts)
        names = sorted({*names, *(os.fsencode(path.relative_to(root)) for path in found)})
    kept = [name for name in names if OURS.encode() not in name.split(b"/")]
    if not kept:
        raise InvalidInput(f"{root} has no files that belong to a project, so there is nothing to sync; look at its ignore files")
    return kept


def _destination(cluster: Cluster, root: Path, given: str | None) -> str:
    """Return the whole path of the folder on the cluster.

    Raises
    ------
    InvalidInput
        It can't be meant: a home, the folder of runs, what they lie in, or the project itself.
    """
    text = os.fspath(given) if given is not None else f"~/{root.name}"
    if not text.strip() or "\0" in text:
        raise InvalidInput(f"destination={text!r} names no folder; give a path on {cluster.url}, such as ~/project")
    if re.match(r"~[^/]", text):
        raise InvalidInput(f"destination={text!r}: another user's home is not looked up; give its whole path")
    home = cluster.transport.environment().get("HOME", "") if not cluster.transport.is_here else str(Path.home())
    if not home.startswith("/") and not text.startswith("/"):
        raise InvalidInput(f"destination={text!r}: {cluster.url} tells no home; give a whole path")
    folder = posixpath.normpath(posixpath.join(home, re.sub(r"^~(/|$)", "./", text)))
    folder = "/" + folder.lstrip("/")
    for kept, what in ((home, "your home"), (cluster.runs_folder, "the folder of runs")):
        if kept and _is_within(kept, folder):
            raise InvalidInput(
                f"destination={text!r} is {what} or holds it ({kept} on {cluster.url}); give a folder for this project alone"
            )
    if _is_within(folder, cluster.runs_folder):
        raise InvalidInput(f"destination={text!r} lies in the folder of runs, {cluster.runs_folder}; give another")
    if cluster.transport.is_here:
        ours, there = os.path.realpath(root), os.path.realpath(folder)
        if _is_within(ours, there) or _is_within(there, ours):
            raise InvalidInput(
                f"destination={text!r} is {there}, and the project is {ours}: one can't be in the other; give another destination"
            )
    return folder


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _known(seen: Seen, wanted: Manifest, where: str, *, adopt: bool) -> Manifest:
    """Return the list of what is ours there.

    Raises
    ------
    InvalidInput
        The destination is somebody else's.
    """
    nothing = Manifest(wanted.source, frozenset())
    if seen.state == NO_FOLDER:
        raise InvalidInput(f"{where} is no folder; give another destination. Nothing was changed")
    if seen.state == OTHER and not adopt:
        raise InvalidInput(f"{where} is not empty, and no sync made it; nothing was changed. Give a new or an empty folder, or {ADOPT}")
    if seen.manifest is None:
        return nothing
    if seen.manifest.source != wanted.source:
        if not adopt:
            raise InvalidInput(
                f"{where} holds what was synced from {seen.manifest.source}, not from {wanted.source}; nothing was changed. "
                f"Give another destination, or {ADOPT}"
            )
        return nothing
    return seen.manifest


def _rows(items: Iterable[Item]) -> list[tuple[str, str, int | None]]:
    return [("add" if item.is_new else "update", os.fsdecode(item.name), item.size) for item in sorted(items, key=lambda item: item.name)]


def _table(rows: list[tuple[str, str, int | None]]) -> pd.DataFrame:
    import pandas as pd

    shown = [(action, name.encode(errors="surrogateescape").decode(errors="backslashreplace"), size) for action, name, size in rows]
    table = pd.DataFrame(shown, columns=["action", "path", "size"])
    return table.astype({"size": "Int64"})


def display_size(size: int) -> str:
    """Write bytes as a person reads them."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size} bytes"


# ---- how ---------------------------------------------------------------------------------------


def choose_mover(transport: Transport, seen: Seen, *, expected: str | None = None) -> Mover:
    """Return what moves files between here and a cluster; where rsync is missing, it is said that it will be slower.

    Parameters
    ----------
    expected : str, optional
        What the list of what is ours there has to begin with, else nothing is moved.
    """
    if transport.is_here:
        return RsyncMover(exact=rsync.is_exact(version_here())) if rsync.is_usable(version_here()) else CopyMover()
    from nexa_sdk.transports.ssh.bulk import Bulk
    from nexa_sdk.transports.ssh.files import SftpMover
    from nexa_sdk.transports.ssh.transport import SshTransport

    assert isinstance(transport, SshTransport)
    connection = transport.connection
    if _has_rsync(seen):
        path = transport.environment().get("PATH", "/usr/bin:/bin")
        is_exact = rsync.is_exact(version_here()) and rsync.is_exact(seen.version)
        return RsyncMover(
            lambda folder: Bulk(connection.renew(), program=seen.rsync, folder=folder, path=path, expected=expected), exact=is_exact
        )
    lacking = transport.host if rsync.is_usable(version_here()) else "this machine"
    version = ".".join(map(str, rsync.NEEDED))
    print(f"{lacking} has no rsync of {version} or later: files go by SFTP, which is slower", file=sys.stderr)
    return SftpMover(connection.renew(), lambda folder: Tree(transport, folder))


def _has_rsync(seen: Seen) -> bool:
    """Whether both ends have one that can be used."""
    return bool(seen.rsync) and rsync.is_usable(seen.version) and rsync.is_usable(version_here())


def persist(work: Callable[[], T], limit: Limit, mover: Mover | None = None) -> T:
    """Do something again when the line goes, until it is done, its time is over, or nothing moves any more.

    Parameters
    ----------
    mover : Mover, optional
        What moves files in it.
    """
    failures = before = 0
    for attempt in itertools.count(1):
        try:
            return work()
        except ClusterError as error:
            if not error.may_pass:
                raise
            _stop_if_over(limit, error)
            moved = mover.moved if mover is not None else 0
            failures = failures + 1 if moved - before < ENOUGH else 1
            before = moved
            if failures >= TRIES or attempt >= MOST:
                raise
            print(f"{error}. Trying again …", file=sys.stderr)
            time.sleep(limit.at_most(min(SLOWEST, 2.0 ** (failures - 1))))
            _stop_if_over(limit, error)
    raise AssertionError


def _stop_if_over(limit: Limit, error: ClusterError) -> None:
    try:
        limit.check()
    except CommandTimeout as over:
        raise over from error


@contextlib.contextmanager
def progress_of(title: str, *, shown: bool) -> Iterator[Callable[[Moved], None]]:
    """Show how far it is, while the block lasts."""
    from nexa_sdk.notebook.transfer import TransferProgress

    with TransferProgress(title, shown=shown) as bar:
        yield bar.update


class Tally:
    """Notes what went, and shows how far it is.

    Attributes
    ----------
    items : dict of bytes to Item
    """

    def __init__(self, show: Callable[[Moved], None]) -> None:
        self.items: dict[bytes, Item] = {}
        self._show = show

    def __call__(self, event: Item | Moved) -> None:
        """Note it."""
        if isinstance(event, Item):
            self.items[event.name] = event
        else:
            self._show(event)

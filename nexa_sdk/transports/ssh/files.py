"""Move files by SFTP, where there is no rsync: slower, with the same outcome."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import ClusterError, CommandFailed, ConnectionLost
from nexa_sdk.manifest import OURS, folders_of
from nexa_sdk.transports.moving import Item, Limit, Mover, Told
from nexa_sdk.transports.pace import Pace
from nexa_sdk.transports.tree import Tree

if TYPE_CHECKING:
    import paramiko

    from nexa_sdk.transports.ssh.connection import Connection

__all__ = ["SftpMover"]

OPENING = 60.0  # seconds to get a session
SILENCE = 60.0  # seconds that an answer may take
PIECE = 1 << 15  # bytes: what every server takes at once
FRESH = 2.0  # seconds in which a file may change again unseen: SFTP knows whole seconds alone


class SftpMover(Mover):
    """Moves by SFTP.

    Parameters
    ----------
    connection : Connection
    tree : callable
        Returns what tells of a folder there.
    """

    by = "SFTP"

    def __init__(self, connection: Connection, tree: Callable[[str], Tree]) -> None:
        self._connection = connection
        self._tree = tree
        self._at = b""  # which file it is at

    # ---- there ---------------------------------------------------------------------------------

    def push(self, root: bytes, names: Sequence[bytes], folder: str, *, told: Told, limit: Limit, dry_run: bool = False) -> None:
        """Send what differs; see the base class."""
        tree = self._tree(folder)
        there = tree.stat(names)
        sources = {name: status for name in names if (status := _lstat(os.path.join(root, name))) is not None}
        with self._client(tree) as sftp:
            changed = []
            for name, status in sources.items():
                known = there.get(name)
                if stat.S_ISLNK(status.st_mode):
                    target = os.readlink(os.path.join(root, name))
                    is_same = known is not None and stat.S_ISLNK(known.mode) and sftp.readlink(_there(folder, name)) == _text(target)
                else:
                    is_same = (
                        known is not None
                        and stat.S_ISREG(known.mode)
                        and (known.size, int(known.mtime), known.mode) == (status.st_size, int(status.st_mtime), status.st_mode)
                    )
                if not is_same:
                    changed.append(Item(name, status.st_size if stat.S_ISREG(status.st_mode) else 0, known is None))
            pace = Pace(sum(item.size for item in changed), told)
            if not dry_run:
                tree.make_folders(sorted(folders_of(item.name for item in changed)))
            for item in changed:
                told(item)
                if not dry_run:
                    limit.check()
                    self._send(sftp, root, item.name, tree, sources[item.name], pace, limit)

    def _send(
        self, sftp: paramiko.SFTPClient, root: bytes, name: bytes, tree: Tree, status: os.stat_result, pace: Pace, limit: Limit
    ) -> None:
        self._at = name
        source, target = os.path.join(root, name), _there(tree.folder, name)
        half = f"{OURS}/partial/{_mark(name, status.st_size, status.st_mtime_ns)}"
        partial = _there(tree.folder, half.encode())
        if stat.S_ISLNK(status.st_mode):
            with contextlib.suppress(FileNotFoundError):
                sftp.remove(partial)
            sftp.symlink(os.readlink(source), partial)
        else:
            with open(source, "rb") as ours, sftp.open(partial, "ab") as theirs:
                size = theirs.stat().st_size or 0
                if size > status.st_size:  # two syncs at once wrote to it
                    theirs.truncate(0)
                    size = 0
                begun = size
                theirs.set_pipelined(True)
                ours.seek(size)
                pace.skip(size)
                while piece := ours.read(PIECE):
                    limit.check()
                    theirs.write(piece)
                    size += len(piece)
                    pace.add(len(piece))
                    self.moved += len(piece)
            if sftp.stat(partial).st_size != size:
                raise OSError(f"{os.fsdecode(name)} arrived in part")
            if begun and tree.digest(half) != _digest(source):  # two at once, that were cut
                sftp.remove(partial)
                return self._send(sftp, root, name, tree, status, pace, limit)
            sftp.chmod(partial, stat.S_IMODE(status.st_mode))
            mtime = _told(status.st_mtime)
            sftp.utime(partial, (mtime, mtime))
        sftp.posix_rename(partial, target)
        return None

    # ---- here ----------------------------------------------------------------------------------

    def pull(self, folder: str, names: Sequence[bytes], to: bytes, *, told: Told, limit: Limit) -> None:
        """Bring what differs; see the base class."""
        tree = self._tree(folder)
        store = os.path.join(to, os.fsencode(OURS), b"partial")
        os.makedirs(store, exist_ok=True)
        with self._client(tree) as sftp:
            changed = []
            for name in names:
                try:
                    known = sftp.stat(_there(folder, name))
                except FileNotFoundError:  # it went meanwhile
                    continue
                ours = _lstat(os.path.join(to, name))
                size, mtime = known.st_size or 0, int(known.st_mtime or 0)
                if ours is None or (ours.st_size, int(ours.st_mtime)) != (size, mtime):
                    changed.append((Item(name, size, ours is None), mtime))
            pace = Pace(sum(item.size for item, _ in changed), told)
            for item, mtime in changed:
                told(item)
                self._fetch(sftp, folder, item, mtime, to, store, pace, limit)

    def _fetch(
        self, sftp: paramiko.SFTPClient, folder: str, item: Item, mtime: int, to: bytes, store: bytes, pace: Pace, limit: Limit
    ) -> None:
        self._at = item.name
        partial, target = os.path.join(store, _mark(item.name, item.size, mtime).encode()), os.path.join(to, item.name)
        with open(partial, "ab") as ours, sftp.open(_there(folder, item.name), "rb") as theirs:
            size = ours.tell()
            if size > item.size:
                size = ours.truncate(0)
            theirs.seek(size)
            _ask_ahead(theirs, item.size)
            pace.skip(size)
            while size < item.size and (piece := theirs.read(min(PIECE, item.size - size))):
                limit.check()
                ours.write(piece)
                size += len(piece)
                pace.add(len(piece))
                self.moved += len(piece)
        os.utime(partial, (mtime, _told(mtime)))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.replace(partial, target)

    # ---- the session ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _client(self, tree: Tree) -> Iterator[paramiko.SFTPClient]:
        """Give a client; what fails in the block is told by its cause."""
        import paramiko

        host = self._connection.settings.address.host
        with self._connection.session(timeout=OPENING) as channel:
            try:
                try:
                    channel.invoke_subsystem("sftp")
                    sftp = paramiko.SFTPClient(channel)
                except (paramiko.SSHException, EOFError) as error:
                    transport = channel.get_transport()
                    if transport is None or not self._connection.check(transport):
                        raise
                    raise ClusterError(f"{host} has neither rsync nor SFTP: {error}. Install rsync there") from error
                channel.settimeout(SILENCE)
                yield sftp
            except TimeoutError as error:
                raise ConnectionLost(f"{host} said nothing for {SILENCE:g} seconds; what arrived is kept") from error
            except (paramiko.SSHException, EOFError, OSError) as error:
                if not isinstance(error, OSError) or channel.closed:  # what SFTP itself says is an OSError, on a channel that is open
                    raise ConnectionLost(f"the connection to {host} was lost while files went over it; what arrived is kept") from error
                why = tree.why_full() if str(error) == "Failure" else ""  # all that SFTP's own status says
                words = (
                    f"{why}. What arrived is kept: make room there, and the same again goes on"
                    if why
                    else f"{os.fsdecode(_there(tree.folder, self._at))}: {error}"
                )
                raise CommandFailed("sftp", getattr(error, "errno", None) or 1, words) from error


def _ask_ahead(file: paramiko.SFTPFile, size: int) -> None:
    """Ask for the rest of a file at once; paramiko does so in a thread, whose end with the line only who reads is to be told."""
    import paramiko

    work = file._prefetch_thread  # type: ignore[attr-defined]

    def quietly(*arguments: Any) -> None:
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            work(*arguments)

    file._prefetch_thread = quietly  # type: ignore[attr-defined]
    file.prefetch(size)


def _there(folder: str, name: bytes) -> bytes:
    return os.path.join(os.fsencode(folder), name)


def _text(target: bytes) -> str | bytes:
    """Return a link's target as paramiko tells it: as text where it is UTF-8."""
    try:
        return target.decode()
    except UnicodeDecodeError:
        return target


def _mark(name: bytes, size: int, mtime: int) -> str:
    """Name what is half there, so that a file that changed meanwhile begins anew."""
    return hashlib.sha256(b"%b %d %d" % (name, size, mtime)).hexdigest()[:32]


def _digest(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _told(mtime: float) -> int:
    """Return the time that a copy gets: a young file's is another, so that it goes once more when it is older."""
    return int(mtime) - (time.time() - mtime < FRESH)


def _lstat(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None

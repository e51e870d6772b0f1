"""What belongs to a project's folder: its files, less what its ignore files leave out, and a digest of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nexa_sdk import settings
from nexa_sdk.errors import InvalidInput

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["LeftOut", "Project", "find_root"]

MOST_FILES = 200_000
SCAN = 0.3  # seconds to look how big what is left out is
SETTLED = 2.0  # seconds after which a file's time tells its content: a file system's clock is coarse
OURS = ".nexaignore"
SECRET = (".env", ".netrc", ".git-credentials", ".pypirc")  # stay here, unless our ignore file says otherwise: !.env


@dataclass(frozen=True)
class LeftOut:
    """A file or a folder that an ignore file leaves out.

    Attributes
    ----------
    path : str
        Relative to the root; a folder ends with a slash.
    files, size : int
        How many files and bytes it has.
    is_whole : bool
        Whether all of it was counted; else there are more.
    """

    path: str
    files: int
    size: int
    is_whole: bool = True


def find_root(folder: str | os.PathLike[str] = ".") -> Path:
    """Return the root of the repository that a folder is in, else the folder itself."""
    here = Path(os.path.abspath(os.path.expanduser(folder)))
    if not here.is_dir():
        raise InvalidInput(f"{here} is no folder; give the folder of a project")
    for root in (here, *here.parents):
        if (root / ".git").exists():
            return here if root != here and _is_ignored(root, here) else root
    return here


def _is_ignored(root: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        asked = subprocess.run(
            ["git", "-C", str(root), "check-ignore", "-q", "--", f"{folder}/"], check=False, stdin=subprocess.DEVNULL, capture_output=True
        )
        return asked.returncode == 0
    return False


class Project:
    """The files of a project.

    Parameters
    ----------
    root : path
        See :func:`find_root`.
    without : sequence of path
        Folders that do not belong to it, wherever they are.
    """

    def __init__(self, root: str | os.PathLike[str], *, without: Sequence[str | os.PathLike[str]] = ()) -> None:
        self.root = Path(os.path.abspath(root))
        inside = (Path(os.path.abspath(folder)) for folder in without)
        self._without = tuple(os.fsencode(folder.relative_to(self.root)) for folder in inside if folder.is_relative_to(self.root))
        if b"." in self._without:
            raise InvalidInput(f"{self.root} is the folder of runs itself; go to the folder of a project")

    # ---- which ---------------------------------------------------------------------------------

    @cached_property
    def names(self) -> list[bytes]:
        """The files and links, relative to the root, sorted.

        Raises
        ------
        InvalidInput
            For a folder with so many files that it is no project's.
        """
        return self._listed[0]

    @cached_property
    def _listed(self) -> tuple[list[bytes], list[bytes]]:
        """The names, and what our own ignore files or the walk leave out."""
        found = self._ask_git(b"", ["-co"])
        if found is None:
            if self.root == Path.home():
                raise InvalidInput(f"{self.root} is your home, no project; go to the folder of a project, or give workdir=")
            names, left_out = self._walk()
        else:
            names, left_out = sorted(set(found)), []
        names, more = self._less_ours(names)
        return names, [*left_out, *more]

    def _ask_git(self, folder: bytes, which: Sequence[str]) -> list[bytes] | None:
        """Ask git for names; None where there is no git, or no repository."""
        whole = os.path.join(os.fsencode(self.root), folder)
        if not os.path.exists(os.path.join(whole, b".git")):
            return None
        try:
            asked = subprocess.run(
                ["git", "-C", whole, "ls-files", *which, "-z", "--exclude-standard"],
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )
        except OSError:
            return None
        if asked.returncode:
            return None
        names: list[bytes] = []
        for name in asked.stdout.split(b"\0")[:-1]:
            path = folder + name
            kind = self._kind(path.rstrip(b"/"))
            if kind == "folder" and "-i" not in which:  # a repository within, a submodule or not
                inner = path.rstrip(b"/") + b"/"
                names += self._ask_git(inner, which) or ()
            elif kind:
                names.append(path)
            if len(names) > MOST_FILES:
                raise self._too_many()
        return names

    def _too_many(self) -> InvalidInput:
        return InvalidInput(
            f"{self.root} has more than {MOST_FILES:,} files, too many for a project's; name its data in .gitignore or {OURS}, "
            "or give workdir=, a folder that is on the cluster already"
        )

    def _kind(self, path: bytes) -> str:
        try:
            mode = os.lstat(os.path.join(os.fsencode(self.root), path)).st_mode
        except OSError:  # deleted, and git not told yet
            return ""
        if stat.S_ISDIR(mode):
            return "folder"
        return "file" if stat.S_ISREG(mode) or stat.S_ISLNK(mode) else ""

    def _walk(self) -> tuple[list[bytes], list[bytes]]:
        """List what no ``.gitignore`` leaves out, without git."""
        names: list[bytes] = []
        left_out: list[bytes] = []
        rules = _Rules(self.root, ".gitignore")

        def visit(folder: bytes) -> None:
            with os.scandir(os.path.join(os.fsencode(self.root), folder)) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    path, is_folder = folder + entry.name, entry.is_dir(follow_symlinks=False)
                    if entry.name == b".git":
                        continue
                    if rules.match(path, is_folder=is_folder):
                        left_out.append(path + b"/" * is_folder)
                    elif is_folder:
                        if os.access(entry.path, os.R_OK | os.X_OK):
                            visit(path + b"/")
                    elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                        names.append(path)
            if len(names) > MOST_FILES:
                raise self._too_many()

        visit(b"")
        return sorted(names), left_out

    def _less_ours(self, names: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Take away what our own ignore files match, and the folders that do not belong to it."""
        ours = os.fsencode(OURS)
        marks = {ours, *map(os.fsencode, SECRET)}
        has_rules = (self.root / OURS).is_file() or any(name.rpartition(b"/")[2] in marks for name in names)
        if not has_rules and not self._without:
            return names, []
        rules = _Rules(self.root, OURS)
        kept: list[bytes] = []
        left_out: dict[bytes, None] = {}
        for name in names:
            top = next((folder for folder in self._without if name.startswith(folder + b"/")), None)
            if top is not None:
                continue
            found = rules.top(name) if has_rules else None
            if found is None:
                kept.append(name)
            else:
                left_out[found] = None
        return kept, list(left_out)

    # ---- what is left out ----------------------------------------------------------------------

    @cached_property
    def left_out(self) -> list[LeftOut]:
        """What ignore files leave out, the largest first; a folder counts as one."""
        ignored = self._ask_git(b"", ["-o", "-i", "--directory"])
        names = dict.fromkeys([*(ignored or ()), *self._listed[1]])
        deadline = time.monotonic() + SCAN
        found = [self._measure(name, deadline) for name in names if name.rstrip(b"/") not in self._without]
        return sorted(found, key=lambda entry: (-entry.size, entry.path))

    def _measure(self, name: bytes, deadline: float) -> LeftOut:
        shown = os.fsdecode(name)
        whole = os.path.join(os.fsencode(self.root), name)
        if not name.endswith(b"/"):
            with contextlib.suppress(OSError):
                return LeftOut(shown, 1, os.lstat(whole).st_size)
            return LeftOut(shown, 0, 0)
        count = size = 0
        folders = [whole]
        while folders:
            if time.monotonic() > deadline:
                return LeftOut(shown, count, size, is_whole=False)
            with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        count += 1
                        size += entry.stat(follow_symlinks=False).st_size
        return LeftOut(shown, count, size)

    def leaves_out(self, path: str) -> LeftOut | None:
        """Return the entry that a path, relative to the root, is left out with; None where it is not."""
        return next((e for e in self.left_out if path == e.path or (e.path.endswith("/") and f"{path}/".startswith(e.path))), None)

    # ---- what is in them -----------------------------------------------------------------------

    @cached_property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(size for *_, size in self.contents)

    @cached_property
    def digest(self) -> str:
        """What changes with the name, the content or the x-bit of any file, or the target of any link.

        Raises
        ------
        InvalidInput
            For a file that can't be read.
        """
        return self.digest_without()

    def digest_without(self, *endings: str) -> str:
        """Return the :attr:`digest` of the files whose names end otherwise."""
        leaves_out = tuple(map(os.fsencode, endings))
        digest = hashlib.sha256()
        for name, kind, content, _ in self.contents:
            if not name.endswith(leaves_out):
                digest.update(b"%d %s %b%b" % (len(name), kind, name, content))
        return digest.hexdigest()

    @cached_property
    def contents(self) -> list[tuple[bytes, bytes, bytes, int]]:
        """Name, kind, hash and size of each file."""
        root = os.fsencode(self.root)
        cache = _Hashes(os.fsdecode(root))
        found = []
        for name in self.names:
            path = os.path.join(root, name)
            try:
                status = os.lstat(path)
                if stat.S_ISLNK(status.st_mode):
                    found.append((name, b"l", hashlib.sha256(os.readlink(path)).digest(), 0))
                else:
                    kind = b"x" if status.st_mode & 0o100 else b"f"
                    found.append((name, kind, cache.of(name, status, path), status.st_size))
            except FileNotFoundError:  # it went meanwhile
                continue
            except OSError as error:
                raise InvalidInput(f"{os.fsdecode(path)} can't be read: {error.strerror}. Mend that, or name it in {OURS}") from error
        cache.write()
        return found


class _Rules:
    """The ignore files of a tree, of one name, and which of its paths they match."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = os.fsencode(root), os.fsencode(name)
        self._specs: dict[bytes, GitIgnoreSpec | None] = {}
        self._tops: dict[bytes, bytes | None] = {b"": None}

    def _spec(self, folder: bytes) -> GitIgnoreSpec | None:
        if folder not in self._specs:
            from pathspec import GitIgnoreSpec

            lines = list(SECRET) if not folder and os.fsdecode(self._name) == OURS else []
            with contextlib.suppress(OSError), open(os.path.join(self._root, folder, self._name), "rb") as file:
                lines += os.fsdecode(file.read()).splitlines()
            self._specs[folder] = GitIgnoreSpec.from_lines(lines) if lines else None
        return self._specs[folder]

    def match(self, path: bytes, *, is_folder: bool) -> bool:
        """Whether a path is matched whose folder is not: the innermost rule that says anything counts."""
        for folder in _folders(path):
            spec = self._spec(folder)
            if spec is not None:
                said = spec.check_file(os.fsdecode(path[len(folder) :]) + "/" * is_folder).include
                if said is not None:
                    return said
        return False

    def top(self, path: bytes) -> bytes | None:
        """Return the outermost of a file and its folders that is matched."""
        folder = path[: path.rfind(b"/") + 1]
        return self._top_of(folder) or (path if self.match(path, is_folder=False) else None)

    def _top_of(self, folder: bytes) -> bytes | None:
        if folder not in self._tops:
            above = self._top_of(folder[: folder.rfind(b"/", 0, -1) + 1])
            self._tops[folder] = above or (folder if self.match(folder[:-1], is_folder=True) else None)
        return self._tops[folder]


def _folders(path: bytes) -> Iterator[bytes]:
    """Yield the folders that a path is in, the innermost first, the root as nothing."""
    end = path.rfind(b"/")
    while end >= 0:
        yield path[: end + 1]
        end = path.rfind(b"/", 0, end)
    yield b""


class _Hashes:
    """The hashes of a project's files, remembered by name, size, times and inode; where they can't be, they are made anew."""

    def __init__(self, root: str) -> None:
        self._root = os.fsencode(root)
        self._known: dict[bytes, tuple[str, bytes]] = {}
        self._seen: dict[bytes, tuple[str, bytes]] = {}
        self._now = time.time()
        self._use(self._read)

    def of(self, name: bytes, status: os.stat_result, path: bytes) -> bytes:
        """Return the hash of a file's content."""
        mark = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        known = self._known.get(name)
        if known is not None and known[0] == mark:
            self._seen[name] = known
            return known[1]
        with open(path, "rb") as file:
            made = hashlib.file_digest(file, "sha256").digest()
        if max(status.st_mtime, status.st_ctime) < self._now - SETTLED:
            self._seen[name] = (mark, made)
        return made

    def write(self) -> None:
        """Remember what was seen."""
        if self._seen != self._known:
            self._use(self._write)

    def _read(self, database: sqlite3.Connection) -> None:
        rows = database.execute("SELECT name, mark, hash FROM hashes WHERE root = ?", (self._root,))
        self._known = {name: (mark, made) for name, mark, made in rows}

    def _write(self, database: sqlite3.Connection) -> None:
        gone = [(self._root, name) for name in self._known.keys() - self._seen.keys()]
        new = [(self._root, name, *found) for name, found in self._seen.items() if self._known.get(name) != found]
        with database:
            database.executemany("DELETE FROM hashes WHERE root = ? AND name = ?", gone)
            database.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", new)

    @staticmethod
    def _use(work: Callable[[sqlite3.Connection], None]) -> None:
        with contextlib.suppress(sqlite3.Error, OSError):
            settings.home().mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(settings.home() / "hashes.sqlite", timeout=2)) as database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS hashes (root BLOB, name BLOB, mark TEXT, hash BLOB, PRIMARY KEY (root, name)) WITHOUT ROWID"
                )
                work(database)

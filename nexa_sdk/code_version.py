"""Which code a run ran: what tells a plan that is the same from one whose program was edited."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CodeVersion", "code_version", "git_version"]

# What a program is made of. Notebooks and data change with every run and are left out, unless the
# command names them.
_SUFFIXES = (".py", ".pyx", ".sh", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".jl", ".R", ".cu", ".cpp", ".c", ".h")
_CLUSTERS = "nexa.toml"  # what a plan takes of it stands in its job: a new name or rate makes no other code
_SKIPPED = frozenset(
    {
        "__pycache__",
        "node_modules",
        "site-packages",
        "build",
        "dist",
        "wandb",
        "outputs",
        "multirun",
        "mlruns",
        "lightning_logs",
        "checkpoints",
        "runs",
        "results",
        "logs",
    }
)
MAX_FILES = 5000
MAX_BYTES = 2**20  # a longer file counts by its size and time


@dataclass(frozen=True)
class CodeVersion:
    """The code under a working directory.

    Attributes
    ----------
    digest : str
        Changes when any source file does.
    commit : str or None
        The commit of git, where there is a repository.
    is_dirty : bool
        Whether files differ from that commit, or are unknown to git.
    """

    digest: str
    commit: str | None
    is_dirty: bool


def code_version(workdir: Path, command: Sequence[str]) -> CodeVersion:
    """Fingerprint the source files under `workdir`, and the files that words of the command name."""
    digest = hashlib.sha256()
    named = [workdir / word for word in command if word and not word.startswith("-") and os.path.isfile(workdir / word)]
    for path in [*named, *_sources(workdir)]:
        digest.update(os.fsencode(path.relative_to(workdir) if path.is_relative_to(workdir) else path) + b"\0")
        digest.update(_content(path))
    commit, is_dirty = git_version(workdir)
    return CodeVersion(digest.hexdigest(), commit, is_dirty)


def _sources(workdir: Path) -> Iterator[Path]:
    count = 0
    for folder, folders, files in os.walk(workdir):
        folders[:] = sorted(
            name for name in folders if name not in _SKIPPED and not name.startswith(".") and not Path(folder, name, "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            if name.endswith(_SUFFIXES) and name != _CLUSTERS:
                count += 1
                if count > MAX_FILES:  # a home directory rather than a project
                    return
                yield Path(folder, name)


def _content(path: Path) -> bytes:
    try:
        status = path.stat()
        if status.st_size > MAX_BYTES:
            return f"{status.st_size} {status.st_mtime_ns}".encode()
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:  # a dangling link, or a file that just went
        return b""


def git_version(workdir: Path) -> tuple[str | None, bool]:
    """Return the commit of git, and whether files differ from it."""
    try:
        commit = _ask_git(workdir, "rev-parse", "HEAD").strip()
        return commit, bool(_ask_git(workdir, "status", "--porcelain").strip())
    except (OSError, subprocess.SubprocessError):
        return None, False


def _ask_git(workdir: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(workdir), *words], capture_output=True, text=True, check=True, timeout=10, stdin=subprocess.DEVNULL
    ).stdout

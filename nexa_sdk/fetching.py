"""Fetch: bring what a run wrote from where it ran to here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import InvalidInput
from nexa_sdk.manifest import OURS
from nexa_sdk.syncing import Tally, choose_mover, persist, progress_of
from nexa_sdk.transports.moving import Limit
from nexa_sdk.transports.tree import Entry, Tree

if TYPE_CHECKING:
    from nexa_sdk.transports.base import Transport

__all__ = ["fetch", "starts_of"]

SHOWN = 12  # names in a message
PRIVATE = b"secrets/"  # of a run's folder: it never leaves the cluster


class _NothingMatches(InvalidInput):
    """No file is meant by the patterns."""


def fetch(run_id: str, transport: Transport, *, to: str | os.PathLike[str] | None, workdir: str, folder: str, **options: Any) -> list[Path]:
    """Bring files of a run; see :meth:`nexa_sdk.run.Run.fetch`. Of several machines each has a folder of its own here."""
    target = Path(os.path.abspath(os.path.expanduser(to if to is not None else run_id)))
    found: list[Path] = []
    missed: _NothingMatches | None = None
    for name, machine in transport.machines.items():
        try:
            found += _fetch(run_id, machine, target=target / name, workdir=workdir, folder=folder, **options)
        except _NothingMatches as error:
            missed = error
    if missed is not None and not found:
        raise missed
    return found


def _fetch(
    run_id: str,
    transport: Transport,
    *,
    folder: str,
    workdir: str,
    patterns: Sequence[str],
    target: Path,
    overwrite: bool,
    timeout: float | None,
    progress: bool,
) -> list[Path]:
    starts = starts_of(patterns)
    if timeout is not None and not timeout > 0:
        raise InvalidInput(f"timeout={timeout!r}: give seconds, more than 0, or None")
    if target.exists() and not target.is_dir():
        raise InvalidInput(f"to={os.fspath(target)!r} is a file; give a folder, which may be new")
    limit = Limit(timeout)
    chosen: dict[str, dict[bytes, Entry]] = {}
    seen = None
    for base in dict.fromkeys((workdir, folder)):
        found, seen = persist(partial(Tree(transport, base, limit).find, starts), limit)
        skipped = _skipped(transport, base, folder, patterns, target)
        there = {name: entry for name, entry in found.items() if not name.startswith(skipped) and OURS.encode() not in name.split(b"/")}
        chosen[base] = _matching(there, patterns)
    assert seen is not None
    if not any(chosen.values()):
        has = _named([os.fsencode(name) for name in sorted({name for base in chosen for name in transport.list(base)})])
        raise _NothingMatches(f"no file in {' or '.join(chosen)} matches {', '.join(map(repr, patterns))}; there is: {has or 'nothing'}")
    _check(chosen, patterns, target, overwrite=overwrite)
    mover = choose_mover(transport, seen)
    target.mkdir(parents=True, exist_ok=True)
    with progress_of(f"Fetching from {run_id} to {target}", shown=progress) as show:
        tally = Tally(show)
        try:
            for base, entries in chosen.items():
                if entries:
                    pull = partial(mover.pull, base, sorted(entries), os.fsencode(target), told=tally, limit=limit)
                    persist(pull, limit, mover)
        finally:
            _tidy(target)
    paths = [target / os.fsdecode(name) for name in sorted({name for entries in chosen.values() for name in entries})]
    return [path for path in paths if path.is_file()]  # but for those that went meanwhile


def starts_of(patterns: Sequence[str]) -> list[str]:
    """Return the folders below which files can match; a pattern without a slash within can match anywhere.

    Raises
    ------
    InvalidInput
        A pattern can't be meant.
    """
    if not patterns:
        raise InvalidInput('name what to fetch, as .gitignore would: fetch("checkpoints/**", "*.pt")')
    starts: dict[str, None] = {}
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern.strip("/ ") or "\0" in pattern or ".." in pattern.split("/"):
            raise InvalidInput(
                f"{pattern!r} is no pattern of files within a run's folder or its working directory; write it as .gitignore would"
            )
        if pattern.startswith(("!", "#")):
            continue
        if "/" not in pattern.rstrip("/"):
            return ["."]
        literal: list[str] = []
        for part in pattern.strip("/").split("/"):
            if re.search(r"[*?\[\\]", part):
                break
            literal.append(part)
        starts["/".join(literal) or "."] = None
    if not starts:
        raise InvalidInput(f"{', '.join(map(repr, patterns))} only leave out; name what to fetch as well")
    return ["."] if "." in starts else list(starts)


def _matching(there: Mapping[bytes, Entry], patterns: Sequence[str]) -> dict[bytes, Entry]:
    from pathspec import GitIgnoreSpec

    spec = GitIgnoreSpec.from_lines(patterns)
    return {name: entry for name, entry in there.items() if spec.match_file(os.fsdecode(name))}


def _skipped(transport: Transport, base: str, folder: str, patterns: Sequence[str], target: Path) -> tuple[bytes, ...]:
    """Return what of a folder is not looked at: secrets, the copy of the code unless it is named, what was fetched before."""
    skipped = [PRIVATE] if base == folder else []
    if base == folder and not any(pattern.lstrip("/").startswith("code/") for pattern in patterns):
        skipped.append(b"code/")
    if folder.startswith(f"{base.rstrip('/')}/"):  # it is looked through by itself
        skipped.append(os.fsencode(folder[len(base.rstrip("/")) + 1 :]) + b"/")
    if transport.is_here:
        inside = os.path.relpath(os.path.realpath(target), os.path.realpath(base))
        if not inside.startswith(".."):
            skipped.append(os.fsencode(inside) + b"/")
    return tuple(skipped)


def _check(chosen: Mapping[str, Mapping[bytes, Entry]], patterns: Sequence[str], target: Path, *, overwrite: bool) -> None:
    """Refuse what is not clear, and what would take the place of something newer here."""
    said = ", ".join(map(repr, patterns))
    first, *others = chosen.items()
    for base, entries in others:
        both = sorted(entries.keys() & first[1].keys())
        if both:
            raise InvalidInput(f"{said} matches {_named(both)} in {first[0]} and in {base}; name one of them more narrowly")
    newer = []
    for entries in chosen.values():
        for name, entry in entries.items():
            path = target / os.fsdecode(name)
            if path.is_file() and not overwrite:
                status = path.stat()
                is_same = (status.st_size, int(status.st_mtime)) == (entry.size, int(entry.mtime))
                if not is_same and status.st_mtime > entry.mtime:
                    newer.append(name)
    if newer:
        raise InvalidInput(f"newer in {target} than on the cluster: {_named(newer)}; give another to=, or overwrite=True")


def _named(names: Sequence[bytes]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(os.fsdecode(name).encode(errors="surrogateescape").decode(errors="backslashreplace") for name in names[:SHOWN]) + more


def _tidy(target: Path) -> None:
    """Remove the folder for files that are half there, if nothing is."""
    for folder in (target / OURS / "partial", target / OURS):
        try:
            folder.rmdir()
        except OSError:  # something is half there, and will be taken up
            return

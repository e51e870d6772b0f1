"""What is said of code that goes to a cluster: before the launch what is left out, and in the run's folder which code it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk.project_files import SECRET
from nexa_sdk.scheduling.base import Check

if TYPE_CHECKING:
    from nexa_sdk.project_files import LeftOut, Project
    from nexa_sdk.sweep import Sweep

__all__ = ["code_checks", "code_records"]

NAMED = 5  # entries that are left out, the largest
LONGEST_PATCH = 10_000_000  # bytes
MOST_CHANGED = 2_000  # files whose changes are kept: their names are arguments of one command


def code_checks(sweep: Sweep, project: Project) -> Iterator[Check]:
    """Say what goes along and what does not, and look for the files that the command names."""
    size = f"{len(project.names):,} files, {project.size / 1e6:.1f} MB, of {project.root}"
    left = project.left_out
    if left:
        named = ", ".join(map(_shown, left[:NAMED])) + (f" and {len(left) - NAMED} more" if len(left) > NAMED else "")
        yield Check("code", "ok", f"{size}; left out by ignore files: {named}")
    else:
        yield Check("code", "ok", size)
    secret = [entry.path for entry in left if entry.path.rpartition("/")[2] in SECRET]
    if secret:
        words = f"{secret[0]} stays here; name what trials need of it in secrets=, or take it along by a line !{secret[0]} in .nexaignore"
        yield Check("secrets", "warning", words)
    here = Path.cwd()
    within = os.fsencode(here.relative_to(project.root)) + b"/"
    if within != b"./" and not any(name.startswith(within) for name in project.names):
        words = f"nothing of {here} goes along, where the program would run; go to a folder that has code, or give workdir="
        yield Check("code", "error", words)
    for word in sweep.command:
        path = here / word
        if "{" in word or word.startswith("-") or not path.is_relative_to(project.root):
            continue
        inside = path.relative_to(project.root).as_posix()
        entry = project.leaves_out(inside)
        if entry is not None and path.exists():
            yield Check("code", "error", f"the command names {word}, which does not go along: an ignore file leaves {entry.path} out")
        elif word.endswith((".py", ".sh")) and not path.is_file():
            yield Check("script", "error", f"there is no {word} in {here}; give its whole path, or workdir=")


def _shown(entry: LeftOut) -> str:
    more = "" if entry.is_whole else "more than "
    return f"{entry.path} ({more}{entry.size / 1e6:.1f} MB)"


def code_records(project: Project, version: Mapping[str, Any]) -> dict[str, bytes]:
    """Return what a run's folder keeps of its code: ``code.json``, ``code.patch`` and the cell that launched it, ``cell.py``."""
    patch, words = _patch(project)
    known = {**version, "root": str(project.root), "files": len(project.names), "bytes": project.size, "patch": words}
    found = {"code.json": json.dumps(known, indent=1).encode()}
    if patch:
        found["code.patch"] = patch
    if cell := _cell():
        found["cell.py"] = cell.encode(errors="surrogateescape")
    return found


def _patch(project: Project) -> tuple[bytes, str]:
    """Return how the tracked files that go along differ from the commit, and where that is kept."""
    options = ["--relative", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"]
    listed = _diff(project, *options, "--name-only", "-z")
    if listed is None:
        return b"", "there is no commit to compare with"
    there = set(project.names)
    names = [
        name for name in listed.split(b"\0")[:-1] if name in there or not os.path.lexists(os.path.join(os.fsencode(project.root), name))
    ]
    if not names:
        return b"", "no tracked file differs from the commit"
    if len(names) > MOST_CHANGED:
        return b"", f"not kept: {len(names):,} files differ from the commit"
    patch = _diff(project, *options, "--binary", "--", *(b":(literal)" + name for name in names))
    if patch is None or len(patch) > LONGEST_PATCH:
        return b"", f"not kept: it has more than {LONGEST_PATCH / 1e6:g} MB"
    return patch, "code.patch"


def _diff(project: Project, *words: str | bytes) -> bytes | None:
    """Ask git how the files differ from the commit; None where it can't say."""
    try:
        asked = subprocess.run(
            ["git", "-C", str(project.root), "diff", "HEAD", *words], check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout if asked.returncode == 0 else None


def _cell() -> str:
    """Return the source of the notebook cell that runs; nothing outside of one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    cells = shell.user_ns.get("In", []) if shell is not None else []
    return str(cells[-1]) if cells else ""

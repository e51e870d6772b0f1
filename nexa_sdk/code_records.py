"""What is said of code that goes to a cluster: before the launch what is left out, and in the run's folder which code it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk.scheduling.base import Check

if TYPE_CHECKING:
    from nexa_sdk.project_files import LeftOut, Project
    from nexa_sdk.sweep import Sweep

__all__ = ["code_checks", "code_records"]

NAMED = 5  # entries that are left out, the largest
LONGEST_PATCH = 10_000_000  # bytes


def code_checks(sweep: Sweep, project: Project) -> Iterator[Check]:
    """Say what goes along and what does not, and look for the files that the command names."""
    size = f"{len(project.names):,} files, {project.size / 1e6:.1f} MB, of {project.root}"
    left = project.left_out
    if left:
        named = ", ".join(map(_shown, left[:NAMED])) + (f" and {len(left) - NAMED} more" if len(left) > NAMED else "")
        yield Check("code", "ok", f"{size}; left out by ignore files: {named}")
    else:
        yield Check("code", "ok", size)
    here = Path.cwd()
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
    known = {**version, "root": str(project.root), "files": len(project.names), "bytes": project.size}
    found = {"code.json": json.dumps(known, indent=1).encode()}
    if patch := _patch(project.root):
        found["code.patch"] = patch
    if cell := _cell():
        found["cell.py"] = cell.encode(errors="surrogateescape")
    return found


def _patch(root: Path) -> bytes:
    """Return how tracked files differ from the commit; nothing where that is too long, or there is no repository."""
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "diff", "HEAD", "--binary"], check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return b""
    return asked.stdout if asked.returncode == 0 and len(asked.stdout) <= LONGEST_PATCH else b""


def _cell() -> str:
    """Return the source of the notebook cell that runs; nothing outside of one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    cells = shell.user_ns.get("In", []) if shell is not None else []
    return str(cells[-1]) if cells else ""

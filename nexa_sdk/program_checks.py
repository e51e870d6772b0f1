"""Look, where the cluster shares this machine's files, for what a trial needs to begin."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nexa_sdk.scheduling.base import Check

if TYPE_CHECKING:
    from nexa_sdk.job import Job
    from nexa_sdk.sweep import Sweep

__all__ = ["program_checks"]


def program_checks(sweep: Sweep, job: Job, *, workdir: Path, python_folder: str | None) -> Iterator[Check]:
    """Look for the working directory, the Python and the program, and the script that it runs."""
    if not workdir.is_dir():
        yield Check("working directory", "error", f"{workdir} is no directory; give workdir=")
        return
    yield Check("working directory", "ok", str(workdir))
    yield from _surroundings(job)
    for name in job.secrets:
        if not os.environ.get(name) and not (workdir / ".env").is_file() and not Path(".env").is_file():
            yield Check("secrets", "error", f"{name} is neither in the environment nor in .env; set it there, or leave it out")
    program = sweep.command[0]
    folders = [python_folder, f"{os.path.expanduser(job.venv)}/bin" if job.venv else None, os.environ.get("PATH", os.defpath)]
    found = shutil.which(str(workdir / program) if "/" in program else program, path=os.pathsep.join(filter(None, folders)))
    if found:
        yield Check("program", "ok", found)
    elif job.modules or job.conda or job.pre_commands:
        yield Check("program", "unknown", f"{program} is not on PATH here; modules, conda or pre-commands may bring it")
    elif "{" in program:
        yield Check("program", "unknown", f"{program} differs from trial to trial")
    else:
        yield Check("program", "error", f"there is no program {program!r} on PATH or in {workdir}")
    if Path(program).name.startswith(("python", "bash", "sh", "torchrun")):
        for word in sweep.command[1:]:
            if word in ("-m", "-c"):
                return
            if word.endswith((".py", ".sh")) and "{" not in word:
                exists = (workdir / os.path.expanduser(word)).is_file()
                yield Check(
                    "script",
                    "ok" if exists else "error",
                    word if exists else f"there is no {word} in {workdir}; give workdir=, or its whole path",
                )
                return


def _surroundings(job: Job) -> Iterator[Check]:
    if job.venv and not os.path.isfile(os.path.join(os.path.expanduser(job.venv), "bin", "activate")):
        yield Check("virtual environment", "error", f"{job.venv} has no bin/activate; make it with python -m venv")
    if job.python and not os.access(os.path.expanduser(job.python), os.X_OK):
        yield Check("python", "error", f"{job.python} is no program; give the whole path of a Python")

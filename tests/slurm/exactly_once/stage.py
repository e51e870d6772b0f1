"""A home, a working directory and a runs folder of its own for one point, and the programs that work there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from points import Situation

from nexa_sdk.journal import Journal

__all__ = ["PATIENCE", "Stage", "lines_of"]

PATIENCE = 300.0  # seconds until a run has to have ended

TRIAL = """\
echo "$NEXA_TRIAL $$ ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID $SLURM_JOB_NAME" >> ../ran
[ ! -e ../fails-first ] || [ -e ../mended ]
"""


class Stage:
    """A home, a working directory and a runs folder of its own for one point."""

    def __init__(self, situation: Situation, environment: Mapping[str, str], *, cluster: str = "slurm") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
        self.situation = situation
        (self.folder / "work").mkdir()
        (self.folder / "bin").mkdir()
        (self.folder / "work" / "trial.sh").write_text(TRIAL)
        if situation.what == "retry":
            (self.folder / "fails-first").touch()
        self.environment = {
            **os.environ,
            **environment,
            "NEXA_HOME": str(self.folder / "home"),
            "NEXA_RUNS": str(self.folder / "runs"),
        }
        told = {
            "cluster": cluster,
            "what": situation.what,
            "trials": situation.trials,
            "throttle": situation.throttle,
            "patience": PATIENCE,
        }
        (self.folder / "situation.json").write_text(json.dumps(told))

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "home" / "journal.sqlite")

    def start(self, *arguments: object, shimmed: bool = False, program: str = "launching.py") -> subprocess.Popen[str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}" if shimmed else os.environ["PATH"]
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(program)), "../situation.json", *map(str, arguments)],
            cwd=self.folder / "work",
            env={**self.environment, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def shim(self, program: str, text: str) -> None:
        path = self.folder / "bin" / program
        path.write_text(text)
        path.chmod(0o755)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def lines_of(said: str) -> dict[str, Any]:
    """Join what a child said; it prints other lines too."""
    found: dict[str, Any] = {}
    for line in said.splitlines():
        if line.startswith("{"):
            found.update(json.loads(line))
    return found

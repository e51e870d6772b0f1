"""Slurm's versions: the one that this machine has, and those in root file systems of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec, install_hint, missing_programs

REPOSITORY = Path(__file__).parents[1]
VERSIONS = ("20.11", "22.05", "24.11", "26.05")


def native_version() -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    program = shutil.which("slurmctld", path=path)
    words = subprocess.run([program, "-V"], capture_output=True, text=True).stdout if program else ""
    found = re.search(r"\d+\.\d+", words)
    return found[0] if found else "none"


NATIVE = native_version()


@contextlib.contextmanager
def sandbox_of(version: str, spec: SandboxSpec) -> Iterator[Sandbox]:
    """Start a sandbox of a version, whose programs come first on PATH meanwhile; what can't be is skipped."""
    with pytest.MonkeyPatch.context() as patch:
        if version == "none":
            pytest.skip(f"no Slurm here; get it by: {install_hint()}")
        if version != NATIVE:
            made = subprocess.run(["bash", REPOSITORY / "bin" / "slurm-versions", version], capture_output=True, text=True)
            if made.returncode:
                pytest.skip(made.stderr.strip())
            folder = made.stdout.rstrip().partition("\t")[2]
            patch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
        if missing_programs():
            pytest.skip(f"no Slurm here; get it by: {install_hint()}")
        place = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
        sandbox = Sandbox(place / "box")
        patch.chdir(place)  # its programs run in a root file system that has /tmp, and not each folder of this one
        try:
            sandbox.start(spec)
            yield sandbox
        finally:
            if sandbox.status():
                sandbox.destroy()
            patch.undo()
            shutil.rmtree(place, ignore_errors=True)
        assert "slurm-versions" not in Path("/proc/self/mountinfo").read_text(), "what is mounted is gone with the programs"

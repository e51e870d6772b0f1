"""A Slurm that remembers little."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexa_sdk import Cluster
from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec, install_hint, missing_programs


@pytest.fixture(scope="session")
def forgetful_box() -> Iterator[Sandbox]:
    spec = SandboxSpec(nodes=1, accounting=False, min_job_age=2)
    if missing_programs(spec):
        pytest.skip(f"no Slurm here; get it by: {install_hint()}")
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    box = Sandbox(folder / "box")
    try:
        box.start(spec)
        yield box
    finally:
        box.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def forgetful(forgetful_box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Return the cluster of a Slurm without accounting that forgets a job two seconds after its end."""
    monkeypatch.setenv("NEXA_SANDBOX", str(forgetful_box.folder))
    for name, value in forgetful_box.environment.items():
        monkeypatch.setenv(name, value)
    return Cluster("sandbox")

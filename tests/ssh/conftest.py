"""Hosts behind SSH."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Line, Loopback

from nexa_sdk import Cluster


@pytest.fixture(scope="session")
def box(sandbox) -> Iterator[Loopback]:
    """Start an sshd behind which there is the session's Slurm."""
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    host = Loopback(folder / "ssh", sandbox.environment)
    try:
        host.start()
        yield host
    finally:
        host.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def line(box: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """Return a line to the host that can be cut."""
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(box.config))
    line = Line(box.port)
    yield line
    line.close()


@pytest.fixture
def remote(line: Line, tmp_path: Path) -> Cluster:
    """Return the Slurm at the other end of that line."""
    return Cluster(f"ssh://127.0.0.1:{line.port}", runs=tmp_path / "remote")

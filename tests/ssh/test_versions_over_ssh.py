"""The main job over SSH on the versions of Slurm that this machine has not itself: what a profile puts on PATH is found."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Line, Loopback
from versions import NATIVE, VERSIONS, sandbox_of

from nexa_sdk import Cluster, Sweep
from nexa_sdk.scheduling.slurm.sandbox import SandboxSpec

pytestmark = pytest.mark.full


@pytest.fixture(scope="module", params=[version for version in VERSIONS if version != NATIVE])
def versioned(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    """Start an sshd behind which there is a Slurm of a version."""
    with sandbox_of(request.param, SandboxSpec(nodes=2, gpus_per_node=1)) as sandbox:
        folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
        (folder / "home").mkdir()
        (folder / "home/.bash_profile").write_text(f"export PATH='{os.environ['PATH']}'\n")
        host = Loopback(folder / "ssh", {**sandbox.environment, "HOME": f"{folder}/home"})
        try:
            host.start()
            yield host
        finally:
            host.stop()
            shutil.rmtree(folder, ignore_errors=True)


def test_launch_fail_retry_and_cancel(
    versioned: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(versioned.config))
    line = Line(versioned.port)
    request.addfinalizer(line.close)
    cluster = Cluster(f"ssh://127.0.0.1:{line.port}", runs=tmp_path / "remote")
    version = request.node.callspec.params["versioned"]
    assert version in cluster.scheduler.config()["SLURM_VERSION"]
    code = 'echo "{\\"got\\": $x}" >> "$NEXA_RESULTS"; echo "hello $x"; [ "$x" != 2 ] || [ -e mended ]'
    run = cluster.launch(Sweep(["sh", "-c", code], {"x": [1, 2, 3]}, style="env"), time="0:05:00", gpus=1, workdir=tmp_path)
    run.wait(check=False, timeout=240, progress=False)
    assert run.status()["state"].tolist() == ["COMPLETED", "FAILED", "COMPLETED"]
    assert run.status()["exit_code"].tolist() == [0, 1, 0]
    (tmp_path / "mended").touch()
    run.retry()
    line.cut()
    run.wait(timeout=240, progress=False)
    assert run.results()["got"].tolist() == [1, 2, 3]
    assert str(run.logs(1)) == "hello 2\n"
    waiting = cluster.launch(Sweep(["sleep", "600"], {"x": [1, 2, 3, 4]}, style="env"), time="0:20:00", gpus=1, workdir=tmp_path)
    deadline = time.monotonic() + 60
    while waiting.status()["state"].tolist().count("RUNNING") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    waiting.cancel()
    waiting.wait(check=False, timeout=240, progress=False)
    assert set(waiting.status()["state"]) == {"CANCELLED"}

"""Limits on the number of tasks, on a real Slurm that holds users to them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexa_sdk import Cluster, Sweep
from nexa_sdk.errors import PreflightFailed
from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec, install_hint, missing_programs


@pytest.fixture(scope="module")
def strict() -> Iterator[Sandbox]:
    """Start a Slurm that holds users to their limits, and takes 40 jobs."""
    if missing_programs():
        pytest.skip(f"no Slurm here; get it by: {install_hint()}")
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    box = Sandbox(folder / "box")
    try:
        box.start(SandboxSpec(nodes=1, gpus_per_node=0, max_job_count=40, extra=("AccountingStorageEnforce=limits",)))
        yield box
    finally:
        box.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(strict: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("NEXA_SANDBOX", str(strict.folder))
    for name, value in strict.environment.items():
        monkeypatch.setenv(name, value)
    return Cluster("sandbox")


def raw(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def sweep(trials: int) -> Sweep:
    return Sweep("true", {"x": range(trials)})


def test_over_a_limit_the_plan_refuses_and_what_it_proposes_fits(cluster: Cluster) -> None:
    user = raw("id", "-un")
    account = raw("sacctmgr", "-n", "-P", "show", "user", "where", f"name={user}", "format=DefaultAccount")
    raw("sacctmgr", "-i", "modify", "user", user, "where", f"account={account}", "set", "MaxSubmitJobs=10")
    job = raw("sbatch", "--parsable", "--hold", "--array=0-2", "--output=/dev/null", "--wrap=true")
    try:
        with pytest.raises(
            PreflightFailed, match=rf"11 tasks \+ 3 that you have queued are more than MaxSubmitJobs=10 of account {account}"
        ):
            cluster.launch(sweep(11), time="0:05:00")
        found = cluster.plan(sweep(11), time="0:05:00").preflight().set_index("what")["words"]["tasks"]
        assert "pack=2 puts 2 trials into a task and makes them 6," in found
        assert "rolling=7 " in found
        cluster.launch(sweep(11), time="0:05:00", pack=2).wait(timeout=240, progress=False)
        cluster.launch(sweep(7), time="0:05:00").wait(timeout=240, progress=False)
    finally:
        raw("scancel", job)
        raw("sacctmgr", "-i", "modify", "user", user, "where", f"account={account}", "set", "MaxSubmitJobs=-1")


def test_a_controller_that_would_let_sbatch_wait_for_ever_is_not_asked(cluster: Cluster) -> None:
    job = raw("sbatch", "--parsable", "--hold", "--array=0-4", "--output=/dev/null", "--wrap=true")
    try:
        held = len(raw("squeue", "-h", "-r", "-t", "all", "-o", "%i").split())
        with pytest.raises(
            PreflightFailed, match=rf"{40 - held} tasks \+ {held} that the controller holds for everybody .* MaxJobCount=40"
        ):
            cluster.launch(sweep(40 - held), time="0:05:00")
        cluster.launch(sweep(39 - held), time="0:05:00").wait(timeout=240, progress=False)
    finally:
        raw("scancel", job)


def test_where_sacctmgr_does_not_answer_the_limits_are_unknown(
    cluster: Cluster, strict: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sacctmgr").write_text("#!/bin/sh\necho 'Problem talking to the database' >&2\nexit 1\n")
    (tmp_path / "sacctmgr").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    verdicts = cluster.plan(sweep(2), time="0:05:00").preflight().set_index("what")
    assert verdicts["verdict"]["submit limits"] == "unknown"
    assert verdicts["verdict"]["tasks"] == "ok"

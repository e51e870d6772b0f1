"""What the tests share: a private home for each, programs to run, and a real Slurm for the session."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import tables

from nexa_sdk import Cluster
from nexa_sdk.journal import Journal

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("nexa_sdk", deadline=None)
hypothesis.settings.load_profile("nexa_sdk")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run everything, the long tests too")
    parser.addoption("--seed", type=int, default=1, help="which points in time the tests of faults choose")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for found in terminalreporter.stats.values() for report in found if isinstance(report, pytest.TestReport)]
    for table, told in tables.lines(reports).items():
        terminalreporter.section(table)
        for line in told:
            terminalreporter.write_line(line)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Where several processes share the tests, a file stays in one, and so does a folder that plays its faults all at once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file.rpartition("/")[0] if "/exactly_once/" in file else file

    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="takes long: bin/test --full runs it"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test its own NEXA_HOME and working directory, and end what it left running."""
    folder = tmp_path / "home"
    monkeypatch.setenv("NEXA_HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    workdir = tmp_path / "work"
    workdir.mkdir()
    monkeypatch.chdir(workdir)
    yield folder
    if not (folder / "journal.sqlite").exists():
        return
    for record in Journal(folder / "journal.sqlite").runs():
        if record.cluster == "local" and Path(record.folder).is_dir():
            run = Cluster("local").run(record)
            run.cancel()
            run.wait(timeout=240, check=False, progress=False)


@pytest.fixture
def program(tmp_path: Path):
    """Write a Python program into the working directory, and return its command."""

    def write(code: str, name: str = "train.py") -> list[str]:
        path = tmp_path / "work" / name
        path.write_text("import json, os, signal, sys, time\n" + textwrap.dedent(code))
        return [sys.executable, name]

    return write


@pytest.fixture(scope="session")
def sandbox() -> Iterator[object]:
    """Start one real Slurm with accounting for the whole session."""
    from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec, install_hint, missing_programs

    if missing_programs():
        pytest.skip(f"no Slurm here; get it by: {install_hint()}")
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    box = Sandbox(folder / "box")
    try:
        box.start(SandboxSpec(nodes=2, gpus_per_node=4))
        yield box
    finally:
        box.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cluster:
    """Return Cluster("sandbox"), on the session's sandbox."""
    monkeypatch.setenv("NEXA_SANDBOX", str(sandbox.folder))
    # As an installed Slurm finds its configuration in /etc, so do the raw commands of the tests.
    for name, value in sandbox.environment.items():
        monkeypatch.setenv(name, value)
    return Cluster("sandbox")


@pytest.fixture
def local() -> Cluster:
    return Cluster("local")


def pytest_sessionstart(session: pytest.Session) -> None:
    with contextlib.suppress(ValueError):  # where this is not the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it, and so would all below
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "NEXA_"))]:
        del os.environ[name]

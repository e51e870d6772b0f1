"""What travels to bare machines: the standard library alone, and no newer Python than 3.6."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexa_sdk.scheduling import machine, supervisor
from nexa_sdk.scheduling.host import _tools

FILES = [Path(str(module.__file__)) for module in (machine, supervisor)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_python_3_6(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 6))
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and node.module == "__future__"), "annotations came with 3.7"
        if isinstance(node, ast.Call):  # of subprocess.run, and new in 3.7
            assert not {"capture_output", "text"} & {keyword.arg for keyword in node.keywords}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_needs_the_standard_library_alone(path: Path) -> None:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    assert found - {"supervisor", "nexa_sdk"} <= sys.stdlib_module_names  # nexa_sdk in this process, supervisor there


def alone(folder: Path, verb: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(_tools()[1])) as archive:
        archive.extractall(folder, filter="data")
    return subprocess.run([sys.executable, "-I", "-S", str(folder / "machine.py"), verb], input=stdin, capture_output=True, cwd="/")


def test_it_answers_by_itself(tmp_path: Path) -> None:
    request = json.dumps({"home": str(tmp_path)}).encode()
    done = alone(tmp_path, "room", b"%d 0\n%s" % (len(request), request))
    told = json.loads(done.stdout)["answer"]
    assert told["cores"] == machine.cores()
    assert told["free_cores"] <= told["cores"]


@pytest.fixture
def limited() -> Iterator[Path]:
    """Make a control group that has the time of one core and a half, in a larger one without a limit."""
    base = Path("/sys/fs/cgroup")
    is_old = (base / "cpu" / "cpu.cfs_quota_us").exists()
    outer = (base / "cpu" if is_old else base) / f"nexa-test-{os.getpid()}"
    group = outer / "inner"
    try:
        outer.mkdir()
        if not is_old:
            (outer / "cgroup.subtree_control").write_text("+cpu")
        group.mkdir()
        (group / ("cpu.cfs_quota_us" if is_old else "cpu.max")).write_text("150000" if is_old else "150000 100000")
    except OSError as error:
        for folder in (group, outer):
            if folder.exists():
                folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.rmdir()
    outer.rmdir()


def test_a_container_has_the_cores_that_its_time_comes_to(tmp_path: Path, limited: Path) -> None:
    for path in FILES:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    enter = f'echo $$ > {limited}/cgroup.procs; exec "$@"'
    ask = [sys.executable, "-c", "import machine; print(machine.cores())"]
    done = subprocess.run(["sh", "-c", enter, "sh", *ask], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize("missing", [1, 5, 40, 300])
def test_a_request_that_was_cut_short_does_nothing(tmp_path: Path, missing: int) -> None:
    folder = tmp_path / "run"
    request = json.dumps({"folder": str(folder), "token": "run-0", "send": 1, "padding": "x" * 300}).encode()
    whole = b"%d %d\n%s%s" % (len(request), 20, request, b"p" * 20)
    done = alone(tmp_path / "tools", "void", whole[:-missing])
    assert done.returncode == machine.CUT_SHORT
    assert done.stderr == b"the request was cut short\n"
    assert not folder.exists()
    assert alone(tmp_path / "tools", "void", whole).returncode == 0
    assert (folder / "local/run-0.void").read_text() == "1"

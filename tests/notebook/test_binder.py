"""What mybinder.org makes of binder/: the notebooks run there, for a user without root and without any capability."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
import pytest

from nexa_sdk.scheduling.slurm.sandbox import PACKAGES, install_hint, missing_programs

REPOSITORY = Path(__file__).parents[2]
BINDER = REPOSITORY / "binder"
NOTEBOOKS = ("01_quickstart.ipynb", "02_slurm.ipynb")
HOST = "jupyter-nexa-5fsdk-2dnexa-5fsdk-2dq8r2x7kd"  # as long as its names are

# As its containers begin: the project is a repository, and the home folder.
BEGIN = """
set -eu
git init --quiet
git add --all
git -c user.name=ada -c user.email=ada@example.org commit --quiet --message=project
"""
BUILD = """
"$(readlink -f "$(command -v python)")" -m venv /tmp/environment
PATH=/tmp/environment/bin:$PATH
binder/postBuild
"""
OPEN = f"""
start=
[ ! -e binder/start ] || start=binder/start
for notebook in {" ".join(NOTEBOOKS)}; do
  $start jupyter nbconvert --log-level=ERROR --to notebook --execute --inplace "notebooks/$notebook"
done
"""
TELL = """
{
  echo "uid $(id -u)"
  grep '^Cap' /proc/self/status
  python -P -c 'import nexa_sdk; print("package", nexa_sdk.__file__)'
  git status --porcelain
} > tmp.told
nexa sandbox stop > tmp.sandbox
for each in /proc/[0-9]*; do
  [ ! -O "$each" ] || [ "$each" = /proc/$$ ] || tr '\\0' ' ' 2>/dev/null < "$each/cmdline" || :
done > tmp.left
"""


def in_binder(homes: Path, script: str) -> Path:
    """Run a script as mybinder.org's user in a copy of this project, and return the copy."""
    done = subprocess.run(command(homes, script), capture_output=True, text=True)
    if done.returncode == 3 and done.stderr.startswith("as-user: "):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return homes / "jovyan"


def command(homes: Path, script: str) -> list[str]:
    network = [f"{name}={value}" for name, value in os.environ.items() if re.fullmatch(r"PIP_\w+|\w+_proxy", name, re.IGNORECASE)]
    inside = ["env", *network, "bash", "-c", script]
    path = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    return ["env", path, "bash", str(REPOSITORY / "bin" / "as-user"), "jovyan", HOST, str(homes), "/home/jovyan", *inside]


def left_running() -> list[str]:
    """Name the processes of this machine that are of such a user."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and entry.stat().st_uid == 1000 and b"HOME=/home/jovyan" in (entry / "environ").read_bytes():
                found.append((entry / "comm").read_text().strip())
        except OSError:
            continue
    return found


def packages_of_the_tests() -> set[str]:
    (line,) = re.findall(r'^packages="(.*)"$', (REPOSITORY / "bin" / "test").read_text(), re.MULTILINE)
    return set(line.split())


def test_it_installs_the_packages_that_the_tests_run_with() -> None:
    lines = [line.partition("#")[0].strip() for line in (BINDER / "apt.txt").read_text().splitlines()]
    packages = [line for line in lines if line]
    assert len(packages) == len(set(packages))
    assert set(packages) == packages_of_the_tests() - {"chromium", "iproute2", "shellcheck"}, "a browser and linters are the tests' own"
    assert set(packages) >= set(PACKAGES), "a sandbox can be started"


def test_it_has_a_python_that_the_package_takes() -> None:
    found = re.fullmatch(r"python-(\d+)\.(\d+)", (BINDER / "runtime.txt").read_text().strip())
    assert found, "repo2docker reads no other form"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    least = project["requires-python"].removeprefix(">=").split(".")
    assert tuple(map(int, found.groups())) >= tuple(map(int, least))


def test_what_it_runs_is_sound_bash_and_can_be_run() -> None:
    assert {path.name for path in BINDER.iterdir()} <= {"apt.txt", "runtime.txt", "postBuild", "start"}, "repo2docker reads nothing else"
    for path in (path for path in BINDER.iterdir() if not path.suffix):
        assert os.access(path, os.X_OK), f"{path.name} can't be run"
        assert path.read_text().startswith("#!")
        assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""
    if (BINDER / "start").exists():
        assert (BINDER / "start").read_text().rstrip().endswith('exec "$@"')


@pytest.mark.timeout(900)
@pytest.mark.parametrize("build", ["", pytest.param(BUILD, marks=pytest.mark.full)], ids=["packages of the tests", "as it builds"])
def test_the_notebooks_run_without_root_and_without_capabilities(tmp_path: Path, build: str) -> None:
    if missing_programs():
        pytest.skip(f"no Slurm here; get it by: {install_hint()}")
    project = in_binder(tmp_path / "homes", BEGIN + build + OPEN + TELL)

    told = (project / "tmp.told").read_text()
    assert "uid 1000\n" in told
    assert re.findall(r"^Cap(?:Eff|Prm|Bnd|Inh|Amb):\s*(\w+)$", told, re.MULTILINE) == ["0000000000000000"] * 5
    assert ("/tmp/environment/" in told) is bool(build), told
    if build:
        changed = re.findall(r"^[ MADRCU?!]{2} (.*)$", told, re.MULTILINE)
        assert [path for path in changed if path not in {f"notebooks/{name}" for name in NOTEBOOKS}] == ["tmp.told"]

    for name, trials in zip(NOTEBOOKS, (12, 4), strict=True):
        notebook = nbformat.read(project / "notebooks" / name, 4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        shown = [output.get("data", {}).get("text/html", "") for cell in code for output in cell.outputs]
        assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
        assert any(text.count(">COMPLETED</span>") == trials + 1 for text in shown), f"{name}: a table of {trials} trials and its summary"

    assert (project / "tmp.left").read_text().split("\n") == [""], "the sandbox's daemons have ended, and so has all else"
    assert left_running() == []


def test_nothing_outlives_such_a_user_who_is_cut_off(tmp_path: Path) -> None:
    in_binder(tmp_path / "tried", "true")
    script = "touch begun; setsid --fork sleep 300; exec sleep 300"
    with subprocess.Popen(command(tmp_path / "homes", script)) as running:
        deadline = time.monotonic() + 240
        while left_running().count("sleep") < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left_running().count("sleep") == 2, shlex.join(left_running())
        running.kill()
    while left_running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_running() == []

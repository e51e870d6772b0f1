"""The code of a project goes along with a launch: as it was then, and only what changed travels."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from loopback import Line

from nexa_sdk import Cluster, Sweep
from nexa_sdk.errors import JobError, PreflightFailed

HOSTILE = ["a b.txt", "it's $(touch x).txt", "-rf", "line\nbreak", "ü.txt", b"not-utf8-\xff".decode(errors="surrogateescape")]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository with a program and a package, go to it, and return it."""
    root = tmp_path / "project"
    (root / "package").mkdir(parents=True)
    (root / "train.py").write_text("import package, os, time; time.sleep(float(os.environ.get('pause', 0))); print(package.VALUE)\n")
    (root / "package/__init__.py").write_text("VALUE = 1\n")
    (root / "tool.sh").write_text("echo tool\n")
    (root / "tool.sh").chmod(0o755)
    (root / "link").symlink_to("package")
    (root / ".gitignore").write_text("data/\n")
    (root / "data").mkdir()
    (root / "data/large.bin").write_bytes(b"x" * 100_000)
    git = ["git", "-C", str(root), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.chdir(root)
    return root


def test_the_project_goes_along_as_it_was_at_the_launch(remote: Cluster, project: Path) -> None:
    sweep = Sweep("python3 train.py", {"n": [1]}, style="env")
    plan = remote.plan(sweep, time="0:05:00", options={"begin": "now+5"})
    assert f"cd -- {plan.folder}/code" in plan.script
    run = plan.submit()
    assert plan.snapshot is not None
    assert plan.snapshot.sent == 5 + 0
    (project / "package/__init__.py").write_text("VALUE = 2\n")  # too late for what waits
    run.wait(timeout=240, progress=False)
    assert str(run.logs(0)) == "1\n"
    (project / "package/__init__.py").write_text("VALUE = 1\n")
    (project / "study.ipynb").write_text("{}")  # which saves itself now and then
    assert remote.launch(sweep, time="0:05:00", options={"begin": "now+5"}).id == run.id, "the same in script and code is the same run"
    papers = Sweep("papermill study.ipynb out.ipynb", {"n": [1]}, style="env")
    before = remote.plan(papers, time="0:05:00").code.digest
    (project / "study.ipynb").write_text("{ }")
    assert remote.plan(papers, time="0:05:00").code.digest != before, "what runs a notebook is another one, if the notebook is"
    (project / "study.ipynb").unlink()
    (project / "package/__init__.py").write_text("VALUE = 2\n")
    code = Path(run.folder, "code")
    assert not (code / "data").exists()
    assert (code / "link").readlink() == Path("package")
    assert os.access(code / "tool.sh", os.X_OK)
    known = json.loads(Path(run.folder, "code.json").read_text())
    assert (known["files"], known["is_dirty"], len(known["commit"])) == (5, False, 40)
    # now only what changed travels, and the patch is kept
    later = remote.plan(sweep, time="0:05:00")
    second = later.submit()
    assert later.snapshot is not None
    assert later.snapshot.sent == 1
    second.wait(timeout=240, progress=False)
    assert str(second.logs(0)) == "2\n"
    assert "+VALUE = 2" in Path(second.folder, "code.patch").read_text()
    assert (Path(second.folder, "code/train.py").stat().st_ino) == (code / "train.py").stat().st_ino
    # and what is there already costs nothing
    third = remote.plan(sweep, time="0:05:00")
    third.submit(again=True).cancel()
    assert third.snapshot is not None
    assert third.snapshot.sent is None


def test_any_name_of_a_file_and_a_folder_within_the_project(remote: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HOSTILE:
        (project / "package" / name).write_text(name, errors="surrogateescape")
    (project / "link").unlink()
    (project / "link").mkdir()
    (project / "link/deep.txt").write_text("deep")
    monkeypatch.chdir(project / "package")
    plan = remote.plan(Sweep(["sh", "-c", "pwd; ls -A | wc -l"]), time="0:05:00")
    run = plan.submit()
    run.wait(timeout=240, progress=False)
    assert str(run.logs(0)).splitlines()[0] == f"{run.folder}/code/package"
    for name in HOSTILE:
        assert Path(run.folder, "code/package", name).read_bytes() == os.fsencode(name)
    (project / "link/deep.txt").unlink()
    (project / "link").rmdir()
    (project / "link").symlink_to("package")  # a link where there was a folder
    (project / "package" / HOSTILE[-1]).unlink()
    (project / "package" / HOSTILE[3]).write_text("changed")
    again = remote.plan(Sweep(["true"]), time="0:05:00").submit()
    again.wait(timeout=240, progress=False)
    assert not Path(again.folder, "code/package", HOSTILE[-1]).exists()
    assert Path(again.folder, "code/package", HOSTILE[3]).read_text() == "changed"
    assert Path(run.folder, "code/package", HOSTILE[3]).read_text() == HOSTILE[3], "an older snapshot stays as it was"


def test_what_is_left_out_is_named_before_the_launch(remote: Cluster, project: Path) -> None:
    words = remote.plan(Sweep("python3 train.py"), time="0:05:00").preflight().set_index("what").loc["code", "words"]
    assert "5 files" in words
    assert "left out by ignore files: data/ (0.1 MB)" in words
    with pytest.raises(PreflightFailed, match=r"names data/large\.bin, which does not go along: an ignore file leaves data/ out"):
        remote.launch(Sweep("python3 train.py data/large.bin"), time="0:05:00")
    with pytest.raises(PreflightFailed, match=r"there is no nosuch\.py"):
        remote.launch(Sweep("python3 nosuch.py"), time="0:05:00")


def test_a_folder_of_the_cluster_is_taken_as_it_is(remote: Cluster, project: Path, tmp_path: Path) -> None:
    run = remote.launch(Sweep(["pwd"]), time="0:05:00", workdir=tmp_path)
    run.wait(timeout=240, progress=False)
    assert str(run.logs(0)) == f"{tmp_path}\n"
    assert not Path(run.folder, "code").exists()
    with pytest.raises(JobError, match="give the whole path of a folder on ssh://"):
        remote.plan(Sweep(["pwd"]), time="0:05:00", workdir="here")


def test_much_goes_beside_so_that_no_question_waits(remote: Cluster, line: Line, project: Path) -> None:
    (project / "large.bin").write_bytes(os.urandom(3_000_000))
    snapshot = remote.plan(Sweep(["true"]), time="0:05:00").snapshot
    assert snapshot is not None
    assert line.accepted == 1
    snapshot.send()
    assert line.accepted == 2, "the bulk goes by a connection of its own"
    assert Path(snapshot.tree, "large.bin").read_bytes() == (project / "large.bin").read_bytes()


def test_files_that_were_purged_from_the_store_are_sent_again(remote: Cluster, project: Path, tmp_path: Path) -> None:
    sweep = Sweep("python3 train.py", {"n": [1]}, style="env")
    first = remote.plan(sweep, time="0:05:00")
    assert first.snapshot is not None
    first.snapshot.send()
    Path(first.snapshot.tree, "package/__init__.py").unlink()
    first.snapshot.send()
    assert first.snapshot.sent == 5, "as there"
    Path(first.snapshot.tree, "train.py").unlink()
    (project / "tool.sh").write_text("echo other\n")
    second = remote.plan(sweep, time="0:05:00")
    assert second.snapshot is not None
    second.snapshot.send()
    assert second.snapshot.sent == 5, "as a base"
    assert Path(second.snapshot.tree, "train.py").exists()


def test_a_snapshot_that_nobody_used_for_a_month_goes(remote: Cluster, project: Path) -> None:
    snapshots = []
    for number in range(3):
        (project / "tool.sh").write_text(f"echo {number}\n")
        snapshots.append(remote.plan(Sweep(["true"]), time="0:05:00").snapshot)
        if number == 2:
            for old in snapshots[:2]:
                os.utime(old.folder, (time.time() - 40 * 86400,) * 2)
            (project / "tool.sh").write_text("echo 1\n")
            remote.plan(Sweep(["true"]), time="0:05:00").snapshot.send()  # it is used again
            (project / "tool.sh").write_text("echo 2\n")
        snapshots[-1].send()
    assert [Path(snapshot.folder).exists() for snapshot in snapshots] == [False, True, True]


def test_the_patch_holds_what_goes_along_and_no_more(remote: Cluster, project: Path) -> None:
    git = ["git", "-C", str(project), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    (project / "notes.txt").write_text("secret 1\n")
    (project / ".nexaignore").write_text("notes.txt\n")
    for words in (["add", "-A"], ["commit", "-qm", "second"], ["config", "diff.external", "false"]):
        subprocess.run([*git, *words], check=True)
    (project / "notes.txt").write_text("secret 2\n")
    (project / "train.py").write_text("print('changed')\n")
    files = remote.plan(Sweep(["true"]), time="0:05:00").files_by_token()
    first = next(iter(files.values()))
    assert b"+print('changed')" in first["code.patch"]
    assert b"secret" not in first["code.patch"]


def test_a_folder_of_which_nothing_goes_along(remote: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "empty").mkdir()
    monkeypatch.chdir(project / "empty")
    with pytest.raises(PreflightFailed, match="nothing of .*empty goes along"):
        remote.launch(Sweep(["true"]), time="0:05:00")


def test_a_store_that_was_removed_is_said_and_filled_again(remote: Cluster, project: Path, tmp_path: Path) -> None:
    sweep = Sweep("python3 train.py", {"n": [1]}, style="env")
    first = remote.plan(sweep, time="0:05:00")
    first.submit().wait(timeout=240, progress=False)
    subprocess.run(["rm", "-rf", str(tmp_path / "remote/.code")], check=True)
    again = remote.plan(sweep, time="0:05:00")
    again.submit(again=True).wait(timeout=240, progress=False)
    assert again.snapshot is not None
    assert again.snapshot.sent == 5

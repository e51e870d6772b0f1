"""What belongs to a project: as git says it, with git and without."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from nexa_sdk import project_files
from nexa_sdk.errors import InvalidInput
from nexa_sdk.project_files import Project, find_root

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", folder, "-c", "user.name=n", "-c", "user.email=e@x", *words], check=True, capture_output=True)


def lay(root: Path, **files: str) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


TREE = {
    ".gitignore": "*.pt\n/build/\ndata/*\n!data/keep.csv\n__pycache__/\n",
    "train.py": "1",
    "model.pt": "x" * 1000,
    "build/out": "x" * 10,
    "pkg/build/out": "kept: the rule is anchored",
    "pkg/.gitignore": "*.tmp\n!special.pt\n",
    "pkg/a.tmp": "",
    "pkg/special.pt": "",
    "pkg/__pycache__/a.pyc": "xx",
    "data/keep.csv": "",
    "data/big.csv": "x" * 5000,
    "other.tmp": "kept: the rule is nested",
}
KEPT = {".gitignore", "train.py", "pkg/build/out", "pkg/.gitignore", "pkg/special.pt", "data/keep.csv", "other.tmp"}


@pytest.fixture(params=[pytest.param("git", marks=needs_git), "walk"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    lay(folder, **TREE)
    if request.param == "git":
        git(folder, "init")
        git(folder, "add", "train.py")
    return folder


def names(root: Path) -> set[str]:
    return {os.fsdecode(name) for name in Project(root).names}


def test_ignored_files_are_left_out_with_git_and_without(root: Path) -> None:
    assert names(root) == KEPT
    left_out = {entry.path: (entry.files, entry.size) for entry in Project(root).left_out}
    assert left_out == {
        "model.pt": (1, 1000),
        "build/": (1, 10),
        "pkg/__pycache__/": (1, 2),
        "pkg/a.tmp": (1, 0),
        "data/big.csv": (1, 5000),
    }
    assert Project(root).left_out[0].path == "data/big.csv"
    assert Project(root).leaves_out("build/out").path == "build/"
    assert Project(root).leaves_out("train.py") is None


def test_our_own_ignore_files_take_more_away(root: Path) -> None:
    lay(root, **{".nexaignore": "*.tmp\npkg/build/\n", "pkg/.nexaignore": "!keep.tmp\n", "sub/keep.tmp": "", "sub/x.py": ""})
    assert names(root) == KEPT - {"other.tmp", "pkg/build/out"} | {".nexaignore", "pkg/.nexaignore", "sub/x.py"}
    assert {"pkg/build/", "other.tmp"} <= {entry.path for entry in Project(root).left_out}


def test_names_of_any_bytes_and_links(root: Path) -> None:
    odd = [b"a\nb", b"\xff\xfe", b" x ", b"-rf", b"'\"$(id)"]
    for name in odd:
        (root / os.fsdecode(name)).write_text("x")
    (root / "link").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    found = set(Project(root).names)
    assert {*odd, b"link"} <= found
    assert b"pipe" not in found
    assert Project(root).digest


@needs_git
def test_the_root_is_the_repository(tmp_path: Path) -> None:
    lay(tmp_path, **{"sub/deep/a": "", ".gitignore": "scratch/\n", "scratch/b": ""})
    assert find_root(tmp_path / "sub/deep") == tmp_path / "sub/deep"
    git(tmp_path, "init")
    assert find_root(tmp_path / "sub/deep") == tmp_path
    assert find_root(tmp_path / "scratch") == tmp_path / "scratch", "a folder that its repository ignores is its own"
    with pytest.raises(InvalidInput, match="no folder"):
        find_root(tmp_path / "nowhere")


@needs_git
def test_deleted_files_and_repositories_within(tmp_path: Path) -> None:
    git(tmp_path, "init")
    lay(tmp_path, **{"a": "", "b": "", "inner/c": "", "inner/d.x": "", "inner/.gitignore": "*.x"})
    git(tmp_path, "add", "a", "b")
    git(tmp_path / "inner", "init")
    git(tmp_path / "inner", "add", "c")
    (tmp_path / "b").unlink()
    assert {name for name in names(tmp_path) if not name.startswith(("home", "work"))} == {"a", "inner/c", "inner/.gitignore"}


def test_the_digest_tells_content_name_x_bit_and_link(root: Path) -> None:
    digests = [Project(root).digest]

    def changed() -> bool:
        digests.append(Project(root).digest)
        return digests[-1] not in digests[:-1]

    assert not changed()
    (root / "train.py").write_text("2")
    assert changed(), "same size"
    (root / "train.py").chmod(0o755)
    assert changed()
    (root / "train.py").rename(root / "t.py")
    assert changed()
    (root / "link").symlink_to("a")
    assert changed()
    (root / "link").unlink()
    (root / "link").symlink_to("b")
    assert changed()
    (root / "link").unlink()
    (root / "build/out").write_text("ignored")
    (root / "t.py").rename(root / "train.py")
    (root / "train.py").chmod(0o644)
    (root / "train.py").write_text("1")
    assert Project(root).digest == digests[0]


def test_hashes_are_remembered_once_a_file_is_settled(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_files, "SETTLED", -1.0)
    first = Project(root).digest
    monkeypatch.setattr(project_files.hashlib, "file_digest", None)
    assert Project(root).digest == first
    monkeypatch.undo()
    monkeypatch.setenv("NEXA_HOME", str(home))
    (home / "hashes.sqlite").write_bytes(b"no database" * 100)
    assert Project(root).digest == first, "a broken memory costs time alone"


def test_a_folder_of_runs_does_not_belong_to_it(root: Path) -> None:
    lay(root, **{"runs/r-1/log": "x"})
    assert b"runs/r-1/log" in Project(root).names
    assert b"runs/r-1/log" not in Project(root, without=[root / "runs"]).names


def test_a_home_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(InvalidInput, match="your home"):
        _ = Project(tmp_path).names


def test_too_many_files_are_no_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_files, "MOST_FILES", 3)
    with pytest.raises(InvalidInput, match="more than 3 files"):
        _ = Project(root).names


@needs_git
def test_an_unchanged_tree_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_files, "SETTLED", -1.0)
    root = tmp_path / "project"
    for n in range(5000):
        lay(root, **{f"d{n % 50}/f{n}.py": str(n)})
    git(root, "init")
    git(root, "add", ".")
    first = Project(root).digest

    def took() -> float:
        began = time.perf_counter()
        assert Project(root).digest == first
        return time.perf_counter() - began

    best = min(took() for _ in range(7))
    print(f"{best:.3f} s")
    assert best < 0.15 * 4, "0.15 s on an idle machine"


def test_files_of_secrets_stay_unless_they_are_asked_for(root: Path) -> None:
    lay(root, **{".env": "TOKEN=1", "pkg/.env": "TOKEN=2", "env.py": ""})
    assert not {".env", "pkg/.env"} & names(root)
    assert {entry.path for entry in Project(root).left_out} >= {".env", "pkg/.env"}
    lay(root, **{".nexaignore": "!/.env\n"})
    assert {".env", "pkg/.env", "env.py"} & names(root) == {".env", "env.py"}

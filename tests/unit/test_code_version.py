"""What tells the same code from edited code."""

from __future__ import annotations

import subprocess
from pathlib import Path

from nexa_sdk.code_version import code_version


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", folder, "-c", "user.name=n", "-c", "user.email=e@x", *words], check=True, capture_output=True)


def test_source_files_count_and_outputs_do_not(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("1")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/model.py").write_text("1")
    command = ["python", "train.py", "data.bin"]
    before = code_version(tmp_path, command)
    for name, folder in (("notebook.ipynb", "."), ("model.pt", "."), ("x.py", ".venv/lib"), ("x.py", "__pycache__")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text("new")
    assert code_version(tmp_path, command).digest == before.digest
    (tmp_path / "data.bin").write_text("named by the command")
    named = code_version(tmp_path, command)
    assert named.digest != before.digest
    (tmp_path / "pkg/model.py").write_text("2")
    assert code_version(tmp_path, command).digest != named.digest


def test_a_repository_tells_its_commit(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("1")
    assert code_version(tmp_path, []).commit is None
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    clean = code_version(tmp_path, [])
    assert clean.commit is not None
    assert len(clean.commit) == 40
    assert not clean.is_dirty
    (tmp_path / "train.py").write_text("2")
    dirty = code_version(tmp_path, [])
    assert dirty.is_dirty
    assert dirty.commit == clean.commit
    assert dirty.digest != clean.digest


def test_a_missing_folder_and_a_dangling_link(tmp_path: Path) -> None:
    assert code_version(tmp_path / "nowhere", ["python"]).commit is None
    (tmp_path / "link.py").symlink_to("nowhere.py")
    assert code_version(tmp_path, ["python"]).digest

"""The project goes to a folder of a cluster, whole and nothing else, and nothing is deleted that no sync put there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import HOSTILE
from loopback import Line, Loopback

from nexa_sdk import Cluster, syncing
from nexa_sdk.errors import ClusterError, CommandTimeout, InvalidInput
from nexa_sdk.manifest import OURS
from nexa_sdk.operations.sync import sync_repository
from nexa_sdk.syncing import Synced
from nexa_sdk.transports import rsync_mover


@pytest.fixture
def end(plain_box: Loopback) -> Loopback:
    return plain_box


@pytest.fixture(params=["rsync", "SFTP"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Say what moves the files; for SFTP this machine's rsync is taken for macOS's own."""
    if request.param == "SFTP":
        monkeypatch.setattr(syncing, "version_here", lambda: "openrsync: protocol version 29")
    if request.param == "rsync, names by stdin":
        monkeypatch.setattr(rsync_mover, "SHARE", 0.0)  # as if there were too many for a command line
    return str(request.param).partition(",")[0]


@pytest.fixture
def cluster(line: Line, by: str) -> Cluster:
    return Cluster(f"ssh://127.0.0.1:{line.port}")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository, go to it, and return it."""
    root = tmp_path / "project"
    write(root, {"train.py": "print(1)\n", "package/__init__.py": "VALUE = 1\n", "package/deep/er.py": "", "data/large.bin": "x" * 9999})
    write(root, {".gitignore": "data/\n", ".nexaignore": "notes.txt\n", "notes.txt": "private"})
    (root / "run.sh").write_text("echo hello\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("package")
    git = ["git", "-C", str(root), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, errors="surrogateescape")


def age(root: Path) -> None:
    """Make all files old: SFTP knows whole seconds alone, and sends what is young once more."""
    for path in root.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1e9, 1e9))


def contents(root: Path) -> dict[str, object]:
    """Return what there is: content and x-bit of files, targets of links."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(root):
        for name in [*files, *folders]:
            path = Path(folder, name)
            inside = str(path.relative_to(root))
            if inside.startswith((".git/", OURS)) or inside == ".git":
                continue
            if path.is_symlink():
                found[inside] = path.readlink()
            elif path.is_file():
                found[inside] = (path.read_bytes(), os.access(path, os.X_OK))
    return found


def of_project(root: Path) -> dict[str, object]:
    return {name: content for name, content in contents(root).items() if not name.startswith("data") and name != "notes.txt"}


# ---- what goes -----------------------------------------------------------------------------------


def test_what_belongs_to_the_project_goes_and_then_only_what_changed(
    cluster: Cluster, by: str, project: Path, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synced = cluster.sync(".", str(there))
    assert contents(there) == of_project(project)
    assert (synced.sent, synced.deleted, synced.by, synced.destination) == (7, 0, by, str(there))
    assert ("slower" in capsys.readouterr().err) == (by == "SFTP")
    age(project)
    cluster.sync("package", str(there))
    assert cluster.sync(".", str(there)).sent == 0
    (project / "train.py").write_text("print(2)\n")  # of the same length, at once
    (project / "new.py").touch()
    (project / "link").unlink()
    (project / "link").symlink_to("train.py")
    again = cluster.sync(".", str(there))
    assert contents(there) == of_project(project)
    assert again.changes().sort_values("path")[["action", "path"]].to_numpy().tolist() == [
        ["update", "link"],
        ["add", "new.py"],
        ["update", "train.py"],
    ]
    assert cluster.transport.connection.logins == 1


def test_a_change_within_the_same_second_goes(cluster: Cluster, project: Path, there: Path) -> None:
    for value in "123456":
        (project / "package/__init__.py").write_text(f"VALUE = {value}\n")
        cluster.sync(".", str(there))
        assert (there / "package/__init__.py").read_text() == f"VALUE = {value}\n"


@pytest.mark.parametrize("by", ["rsync", "rsync, names by stdin", "SFTP"], indirect=True)
def test_any_name_of_a_file_and_of_a_destination(cluster: Cluster, by: str, project: Path, tmp_path: Path) -> None:
    for name in HOSTILE:
        write(project, {f"package/{name}": name, f"{name}.folder/{name}": "deep"})
    before = set(tmp_path.iterdir())
    for name in HOSTILE:
        there = tmp_path / f"to {name}"
        synced = cluster.sync(".", str(there))
        assert contents(there) == of_project(project)
        assert synced.sent == 7 + 2 * len(HOSTILE)
        assert len(synced.changes()) == synced.sent
    for name in HOSTILE:
        (project / "package" / name).unlink()
        shutil.rmtree(project / f"{name}.folder")
    for name in HOSTILE:
        assert cluster.sync(".", str(tmp_path / f"to {name}")).deleted == 2 * len(HOSTILE)
        assert contents(tmp_path / f"to {name}") == of_project(project)
    assert set(tmp_path.iterdir()) - before == {tmp_path / f"to {name}" for name in HOSTILE}


def test_a_dry_run_says_what_would_go_and_changes_nothing(cluster: Cluster, project: Path, there: Path) -> None:
    table = cluster.sync(".", str(there), dry_run=True)
    assert not there.exists()
    assert table["action"].tolist() == ["add"] * 7
    assert table.set_index("path")["size"]["train.py"] == 9
    age(project)
    cluster.sync(".", str(there))
    (project / "train.py").write_text("print(100)\n")
    (project / "package/deep/er.py").unlink()
    (project / "new.py").write_text("1")
    before = contents(there)
    table = cluster.sync(".", str(there), dry_run=True)
    assert table.to_numpy().tolist() == [["add", "new.py", 1], ["update", "train.py", 11], ["delete", "package/deep/er.py", 0]]
    assert contents(there) == before


def test_a_folder_becomes_a_file_a_link_and_a_folder_again(cluster: Cluster, project: Path, there: Path) -> None:
    cluster.sync(".", str(there))
    shapes: list[Callable[[Path], object]] = [
        Path.touch,
        lambda path: write(path, {"inner/file": "1", "other": "2"}),
        lambda path: path.symlink_to("train.py"),
        lambda path: write(path, {"inner": "3"}),
    ]
    for shape in shapes:
        if (project / "package").is_dir():
            shutil.rmtree(project / "package")
        else:
            (project / "package").unlink()
        shape(project / "package")
        cluster.sync(".", str(there))
        assert contents(there) == of_project(project)


def test_the_folder_is_called_as_the_project_unless_one_is_named(cluster: Cluster, project: Path, tmp_path: Path) -> None:
    cluster.transport.environment()
    cluster.transport._environment["HOME"] = str(tmp_path / "home-there")
    (tmp_path / "home-there").mkdir()
    assert cluster.sync().destination == str(tmp_path / "home-there/project")
    assert cluster.sync(".", "code/mine").destination == str(tmp_path / "home-there/code/mine")
    assert contents(tmp_path / "home-there/code/mine") == of_project(project)


# ---- what is deleted, and what never is ------------------------------------------------------------


def test_only_what_a_sync_put_there_is_deleted(cluster: Cluster, project: Path, there: Path, tmp_path: Path) -> None:
    age(project)
    cluster.sync(".", str(there))
    write(there, {"outputs/model.pt": "precious", "package/deep/weights.bin": "precious"})
    (project / "package/deep/er.py").unlink()
    (project / "train.py").unlink()
    assert cluster.sync(".", str(there), delete=False).deleted == 0
    assert (there / "train.py").exists()
    synced = cluster.sync(".", str(there))
    assert sorted(synced.changes()["path"]) == ["package/deep/er.py", "train.py"]
    assert synced.deleted == 2
    assert contents(there) == {
        **of_project(project),
        "outputs/model.pt": (b"precious", False),
        "package/deep/weights.bin": (b"precious", False),
    }


def test_nothing_is_deleted_where_a_link_leads(cluster: Cluster, project: Path, there: Path, tmp_path: Path) -> None:
    cluster.sync(".", str(there))
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, {"er.py": "of somebody else", "__init__.py": "of somebody else"})
    shutil.rmtree(there / "package/deep")
    (there / "package/deep").symlink_to(elsewhere)
    (project / "package/deep/er.py").unlink()
    cluster.sync(".", str(there))
    assert (elsewhere / "er.py").read_text() == "of somebody else"
    assert (there / "package/deep").is_symlink(), "the link is not ours"


def test_a_list_that_names_what_lies_elsewhere_deletes_nothing(cluster: Cluster, project: Path, there: Path, tmp_path: Path) -> None:
    cluster.sync(".", str(there))
    (tmp_path / "precious").write_text("precious")
    for name in ("../precious", f"{tmp_path}/precious", "package/../../precious"):
        known = (there / OURS / "files").read_text().splitlines()
        (there / OURS / "files").write_text("\n".join(["nexa-sync 1 0", *known[1:], name]) + "\n")
        with pytest.raises(ClusterError, match="which no sync puts there"):
            cluster.sync(".", str(there))
        (there / OURS / "files").write_text("\n".join(known) + "\n")
    assert (tmp_path / "precious").exists()


def test_a_folder_that_is_not_ours_is_refused_until_it_is_adopted(cluster: Cluster, project: Path, there: Path) -> None:
    write(there, {"train.py": "theirs", "results.csv": "theirs"})
    with pytest.raises(InvalidInput, match=r"is not empty, and no sync made it; nothing was changed.*adopt=True"):
        cluster.sync(".", str(there))
    assert contents(there) == {"train.py": (b"theirs", False), "results.csv": (b"theirs", False)}
    assert not (there / OURS).exists()
    cluster.sync(".", str(there), adopt=True)
    assert contents(there) == {**of_project(project), "results.csv": (b"theirs", False)}


def test_what_another_project_put_there_is_refused_and_never_deleted(cluster: Cluster, project: Path, there: Path, tmp_path: Path) -> None:
    cluster.sync(".", str(there))
    other = tmp_path / "other"
    write(other, {"other.py": "", ".git/config": ""})
    with pytest.raises(InvalidInput, match=r"holds what was synced from .*project, not from .*other"):
        cluster.sync(other, str(there))
    cluster.sync(other, str(there), adopt=True)
    assert contents(there) == {**of_project(project), "other.py": (b"", False)}


@pytest.mark.parametrize("destination", ["/", "~", "", "~/", ".", "/..", "~/.nexa/runs", "~/.nexa", "~/.nexa/runs/x", "~ada/x", "a\0b"])
def test_a_destination_that_can_only_be_a_mistake_is_refused(line: Line, project: Path, destination: str) -> None:
    with pytest.raises(InvalidInput, match="destination="):
        Cluster(f"ssh://127.0.0.1:{line.port}").sync(".", destination)


def test_a_project_without_files_deletes_nothing(cluster: Cluster, project: Path, there: Path) -> None:
    cluster.sync(".", str(there))
    before = contents(there)
    (project / ".nexaignore").write_text("*\n")
    with pytest.raises(InvalidInput, match="nothing to sync"):
        cluster.sync(".", str(there))
    assert contents(there) == before


def test_a_file_in_the_place_of_the_folder_is_said(cluster: Cluster, project: Path, there: Path) -> None:
    there.write_text("")
    with pytest.raises(InvalidInput, match="is no folder"):
        cluster.sync(".", str(there))


def test_a_file_that_can_take_no_place_is_said(cluster: Cluster, project: Path, there: Path) -> None:
    write(there, {"train.py/theirs": "precious"})
    with pytest.raises(ClusterError, match=r"train\.py"):
        cluster.sync(".", str(there), adopt=True)
    assert (there / "train.py/theirs").exists()


# ---- limits, and other ways in ---------------------------------------------------------------------


def test_a_time_limit_keeps_what_arrived(line: Line, project: Path, there: Path) -> None:
    cluster = Cluster(f"ssh://127.0.0.1:{line.port}")
    cluster.transport.environment()
    with pytest.raises(CommandTimeout, match="goes on"):
        cluster.sync(".", str(there), timeout=1e-6)
    with pytest.raises(InvalidInput, match="timeout="):
        cluster.sync(".", str(there), timeout=0)
    cluster.sync(".", str(there), timeout=60)
    assert contents(there) == of_project(project)


def test_a_host_without_rsync_and_without_sftp_is_said(project: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "version_here", lambda: "")
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    host = Loopback(folder / "ssh", {})
    settings = folder / "ssh/sshd_config"
    settings.write_text(settings.read_text().replace("Subsystem sftp internal-sftp\n", ""))
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(host.config))
    try:
        host.start()
        with pytest.raises(ClusterError, match=r"has neither rsync nor SFTP.*Install rsync there"):
            Cluster(f"ssh://127.0.0.1:{host.port}").sync(".", str(there))
    finally:
        host.stop()
        shutil.rmtree(folder)


def test_the_specifications_function(line: Line, project: Path, there: Path) -> None:
    synced = sync_repository(f"ssh://127.0.0.1:{line.port}{there}")
    assert isinstance(synced, Synced)
    assert contents(there) == of_project(project)
    with pytest.raises(InvalidInput, match="on which cluster"):
        sync_repository(str(there))
    with pytest.raises(InvalidInput, match="names no folder"):
        sync_repository("ssh://127.0.0.1")


def test_runs_that_lie_in_the_project_go_only_if_asked(line: Line, project: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXA_RUNS", str(project / "runs"))
    write(project, {"runs/a-1/plan.json": "{}", "runs/a-1/secrets/a-1-0": "s3cret"})
    cluster = Cluster(f"ssh://127.0.0.1:{line.port}")
    cluster.sync(".", str(there))
    assert not (there / "runs").exists()
    cluster.sync(".", str(there), include_runs=True)
    assert sorted(path.name for path in (there / "runs").rglob("*") if path.is_file()) == ["plan.json"]
    monkeypatch.setenv("NEXA_RUNS", str(project.parent / "runs"))
    with pytest.raises(InvalidInput, match="outside of the project"):
        cluster.sync(".", str(there), include_runs=True)

"""What a run wrote comes back: over SSH from a real Slurm, through cut lines, and from this machine's own clusters."""

from __future__ import annotations

import base64
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE
from loopback import Line

from nexa_sdk import Cluster, Sweep, fetching, syncing
from nexa_sdk.errors import ClusterError, InvalidInput
from nexa_sdk.manifest import OURS
from nexa_sdk.transports.base import Completed
from nexa_sdk.transports.tree import _FIND

WRITE = 'mkdir -p checkpoints/$n && echo "model $n" > checkpoints/$n/model.pt && echo "old $n" > checkpoints/$n/old.pt && echo log $n'


@pytest.fixture(params=["rsync", "SFTP"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "SFTP":
        monkeypatch.setattr(syncing, "version_here", lambda: "openrsync: protocol version 29")
    return str(request.param)


def shown(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_what_trials_wrote_comes_back_from_a_slurm_over_ssh(
    remote: Cluster, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.sh").write_text(WRITE)
    monkeypatch.chdir(project)
    run = remote.launch(Sweep(["bash", "train.sh"], {"n": [1, 2, 3]}, style="env"), time="0:05:00")
    run.wait(timeout=240, progress=False)
    paths = run.fetch("checkpoints/**", "!old.pt", to=tmp_path / "back")
    assert paths == [tmp_path / f"back/checkpoints/{n}/model.pt" for n in (1, 2, 3)]
    assert shown(tmp_path / "back") == {f"checkpoints/{n}/model.pt": f"model {n}\n" for n in (1, 2, 3)}
    assert sorted(path.read_text() for path in run.fetch("logs/")) == [f"log {n}\n" for n in (1, 2, 3)]
    assert (project / run.id / "logs").is_dir(), "unless a folder is named, it is called as the run"
    assert [path.name for path in run.fetch("code/train.sh", "plan.json")] == ["train.sh", "plan.json"]
    with pytest.raises(InvalidInput, match=r"no file in .*code or .* matches 'checkpoint/\*'; there is: checkpoints, code, .*train\.sh"):
        run.fetch("checkpoint/*")
    assert remote.transport.connection.logins == 1


def test_secrets_stay_where_they_are(remote: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    run = remote.launch(Sweep(["sleep", "20"]), time="0:05:00", workdir=tmp_path / "work", secrets=["TOKEN"], options={"hold": True})
    assert list(Path(run.folder, "secrets").iterdir())
    run.fetch("**", to=tmp_path / "back")
    assert (tmp_path / "back/plan.json").is_file()
    assert not any("s3cret" in text for text in shown(tmp_path / "back").values())
    run.cancel()


class Place:
    """A run's folder and its working directory, without a run."""

    def __init__(self, line: Line, tmp_path: Path) -> None:
        self.cluster = Cluster(f"ssh://127.0.0.1:{line.port}")
        self.folder, self.workdir, self.to = tmp_path / "run", tmp_path / "workdir", tmp_path / "to"
        self.folder.mkdir()
        self.workdir.mkdir()

    def fetch(self, *patterns: str, overwrite: bool = False) -> list[str]:
        found = fetching.fetch(
            "run-1",
            self.cluster.transport,
            folder=str(self.folder),
            workdir=str(self.workdir),
            patterns=patterns,
            to=self.to,
            overwrite=overwrite,
            timeout=120,
            progress=False,
        )
        return [str(path.relative_to(self.to)) for path in found]


@pytest.fixture
def place(line: Line, by: str, tmp_path: Path) -> Place:
    return Place(line, tmp_path)


def test_any_name_comes_back(place: Place) -> None:
    for name in HOSTILE:
        path = place.workdir / "out" / f"{name}.d" / name
        path.parent.mkdir(parents=True)
        path.write_text(name, errors="surrogateescape")
    found = place.fetch("out/**")
    assert sorted(found) == sorted(f"out/{name}.d/{name}" for name in HOSTILE)
    for name in HOSTILE:
        assert (place.to / "out" / f"{name}.d" / name).read_bytes() == os.fsencode(name)
    assert [path.name for path in place.to.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["./../evil.txt", "/{}/evil.txt", "./out/../../evil.txt"])
def test_a_cluster_that_names_what_lies_elsewhere_writes_nothing_here(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (place.workdir / "out").mkdir()
    (tmp_path / "evil.txt").write_text("evil")
    run = place.cluster.transport.run
    told = base64.b64encode(f"4 0 {name.format(tmp_path)}\0".encode()).decode()

    def lying(argv: list[str], **options: Any) -> Completed:
        answer = run(argv, **options)
        return (
            replace(answer, stdout="\n".join([*answer.stdout.split("\n")[:2], told]))
            if _FIND in argv and str(place.workdir) in argv
            else answer
        )

    monkeypatch.setattr(place.cluster.transport, "run", lying)
    with pytest.raises(ClusterError, match="which no search finds there; nothing was brought"):
        fetching.fetch(
            "run-1",
            place.cluster.transport,
            folder=str(place.folder),
            workdir=str(place.workdir),
            patterns=["**"],
            to=tmp_path / "laptop" / "to",
            overwrite=False,
            timeout=30,
            progress=False,
        )
    assert not (tmp_path / "laptop").exists()


def test_a_link_brings_what_it_leads_to(place: Place, tmp_path: Path) -> None:
    (tmp_path / "scratch/deep").mkdir(parents=True)
    (tmp_path / "scratch/deep/model.pt").write_text("weights")
    (place.workdir / "checkpoints").symlink_to(tmp_path / "scratch")
    (place.workdir / "latest.pt").symlink_to("checkpoints/deep/model.pt")
    (place.workdir / "dangling").symlink_to("nowhere")
    (place.workdir / "checkpoints/round").symlink_to(tmp_path / "scratch")
    assert place.fetch("checkpoints/**", "latest.pt", "dangling") == ["checkpoints/deep/model.pt", "latest.pt"]
    assert shown(place.to) == {"checkpoints/deep/model.pt": "weights", "latest.pt": "weights"}
    assert not any(path.is_symlink() for path in place.to.rglob("*"))


def test_only_what_changed_travels_and_nothing_newer_is_replaced(place: Place) -> None:
    for name, text in {"a.csv": "1", "b.csv": "1"}.items():
        (place.workdir / name).write_text(text)
        os.utime(place.workdir / name, (1e9, 1e9))
    place.fetch("*.csv")
    (place.to / "a.csv").write_text("my own")
    with pytest.raises(InvalidInput, match=r"newer in .* than on the cluster: a\.csv; give another to=, or overwrite=True"):
        place.fetch("*.csv")
    assert (place.to / "a.csv").read_text() == "my own"
    place.fetch("*.csv", overwrite=True)
    assert shown(place.to) == {"a.csv": "1", "b.csv": "1"}
    (place.workdir / "b.csv").write_text("22")
    os.utime(place.workdir / "b.csv", (2e9, 2e9))
    assert place.fetch("*.csv") == ["a.csv", "b.csv"]
    assert shown(place.to) == {"a.csv": "1", "b.csv": "22"}


def test_a_name_that_is_in_both_places_is_not_guessed(place: Place) -> None:
    for folder in (place.folder, place.workdir):
        (folder / "results").mkdir()
        (folder / "results/x").write_text(folder.name)
    with pytest.raises(InvalidInput, match=r"matches results/x in .*workdir and in .*run; name one of them more narrowly"):
        place.fetch("results/")
    assert not place.to.exists()


@pytest.mark.parametrize("pattern", ["", "/", "../x", "a/../../x", "a\0b", "!x"])
def test_a_pattern_that_can_not_be_meant_is_refused(place: Place, pattern: str) -> None:
    with pytest.raises(InvalidInput, match="pattern|only leave out"):
        place.fetch(pattern)


def test_a_line_that_is_cut_while_files_come(place: Place, line: Line) -> None:
    content = random.Random(1).randbytes(6_000_000)
    (place.workdir / "model.pt").write_bytes(content)
    (place.workdir / "other.pt").write_bytes(content[::-1])
    place.cluster.transport.environment()
    for share in (0.1, 0.6):
        line.arm("down", int(share * 12_000_000))
        cuts = line.cuts
        assert place.fetch("*.pt") == ["model.pt", "other.pt"]
        assert line.cuts == cuts + 1
        assert (place.to / "model.pt").read_bytes() == content
        assert (place.to / "other.pt").read_bytes() == content[::-1]
        assert not (place.to / OURS).exists()
        for name in ("model.pt", "other.pt"):
            (place.to / name).unlink()


@pytest.mark.parametrize("without_rsync", [False, True])
def test_on_this_machine_files_are_copied(
    local: Cluster, tmp_path: Path, program, monkeypatch: pytest.MonkeyPatch, *, without_rsync: bool
) -> None:
    if without_rsync:
        monkeypatch.setattr(syncing, "version_here", lambda: "")
    code = """
        os.makedirs(f"checkpoints/{os.environ['n']}")
        open(f"checkpoints/{os.environ['n']}/model.pt", "w").write(os.environ["n"])
    """
    run = local.launch(Sweep(program(code), {"n": [1, 2]}, style="env"), time="0:05:00")
    run.wait(timeout=240, progress=False)
    paths = run.fetch("checkpoints/**")
    assert paths == [tmp_path / f"work/{run.id}/checkpoints/{n}/model.pt" for n in (1, 2)]
    assert run.fetch("*.pt") == paths, "what was fetched is not fetched from here again"
    time.sleep(0.01)
    (tmp_path / "work/checkpoints/1/model.pt").write_text("new")
    run.fetch("checkpoints/")
    assert paths[0].read_text() == "new"


def test_a_copy_on_this_machine_is_a_sync_too(local: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, there = tmp_path / "project", tmp_path / "there"
    (project / "package").mkdir(parents=True)
    (project / "package/a.py").write_text("1")
    (project / "link").symlink_to("package")
    for version in ("", None):
        if version is not None:
            monkeypatch.setattr(syncing, "version_here", lambda: "")
        else:
            monkeypatch.undo()
            monkeypatch.setenv("NEXA_HOME", str(tmp_path / "home"))
        synced = local.sync(project, str(there))
        assert synced.by == ("copying" if version is not None else "rsync")
        assert (there / "package/a.py").read_text() == "1"
        assert (there / "link").readlink() == Path("package")
        assert local.sync(project, str(there)).sent == 0
        (project / "package/b.py").write_text("2")
        assert local.sync(project, str(there), dry_run=True)["path"].tolist() == ["package/b.py"]
        assert local.sync(project, str(there)).sent == 1
        (project / "package/b.py").unlink()
        assert local.sync(project, str(there)).deleted == 1
        assert not (there / "package/b.py").exists()
    with pytest.raises(InvalidInput, match="one can't be in the other"):
        local.sync(project, str(project / "inside"))

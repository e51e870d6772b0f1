"""Clusters by name: what a file can say, which file wins, what a mistake is told like, and what a plan takes."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from textwrap import dedent

import pytest

from nexa_sdk import Cluster, Job, Sweep, attach, clusters
from nexa_sdk.cluster import KNOWN
from nexa_sdk.definition import Definition
from nexa_sdk.errors import ClusterNotFound, InvalidInput, JobError, ProfileError
from nexa_sdk.profiles import RESERVED, find_profile, profiles

WORK = """\
# mine
[clusters.work]
host = "ssh://ada@login.example.org"
runs = "/scratch/ada/runs"
modules = ["cuda/12.1"]
container = "docker://python:3.12"
[clusters.work.job]
partition = "gpu"
account = "ml"
time = 02:00:00
[clusters.work.rates]
h100 = 2.49
a100 = 1
"""


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """Return the path of the user's file; its folder is there."""
    path = tmp_path / "config" / "nexa" / "clusters.toml"
    path.parent.mkdir(parents=True)
    return path


def here(job: str, host: str = "local") -> None:
    """Describe a cluster in the project."""
    Path("nexa.toml").write_text(f'[clusters.here]\nhost = "{host}"\nruns = "{Path.cwd()}/runs"\n[clusters.here.job]\n{dedent(job)}')


SWEEP = Sweep("true", {"x": [1, 2]})


# ---- what a file says ------------------------------------------------------------------------------------------


def test_a_whole_description(users: Path) -> None:
    users.write_text(WORK)
    (work,) = profiles().values()
    assert work == find_profile("work")
    assert (work.name, work.host, work.runs, work.container) == (
        "work",
        "ssh://ada@login.example.org",
        "/scratch/ada/runs",
        "docker://python:3.12",
    )
    assert work.path == users
    assert work.job == {"partition": "gpu", "account": "ml", "time": "02:00:00", "modules": ["cuda/12.1"]}
    assert work.rates == {"h100": Decimal("2.49"), "a100": Decimal(1)}
    assert work.complete({}) == Job(partition="gpu", account="ml", time="2:00:00", modules=["cuda/12.1"])


def test_a_host_is_enough_and_no_file_is_none(users: Path) -> None:
    assert profiles() == {}
    users.write_text("")
    assert profiles() == {}
    users.write_text('clusters.a = {host = "slurm"}\n"clusters"."b".host = "ssh://host:2222"\n')
    assert {name: (found.host, found.runs, found.job) for name, found in profiles().items()} == {
        "a": ("slurm", None, {}),
        "b": ("ssh://host:2222", None, {}),
    }


# ---- which file wins -------------------------------------------------------------------------------------------


def test_the_projects_table_wins_as_a_whole(users: Path) -> None:
    users.write_text(WORK + '[clusters.other]\nhost = "slurm"\n')
    Path("nexa.toml").write_text('[clusters.work]\nhost = "sandbox"\n')
    found = profiles()
    assert sorted(found) == ["other", "work"]
    assert (found["work"].host, found["work"].job, found["work"].rates) == ("sandbox", {}, {})
    assert found["work"].path == Path.cwd() / "nexa.toml"


def test_where_the_users_file_is(users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users.write_text('[clusters.a]\nhost = "slurm"\n')
    monkeypatch.setenv("NEXA_CONFIG", str(tmp_path / "mine.toml"))
    with pytest.raises(ProfileError, match=r"mine\.toml: there is no such file, and \$NEXA_CONFIG"):
        profiles()
    (tmp_path / "mine.toml").write_text('[clusters.b]\nhost = "slurm"\n')
    assert list(profiles()) == ["b"]
    monkeypatch.delenv("NEXA_CONFIG")
    assert list(profiles()) == ["a"]
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config").mkdir()
    users.parent.rename(tmp_path / ".config" / "nexa")
    assert list(profiles()) == ["a"]


def test_the_walk_up_to_the_projects_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Path("project/a/b").absolute()
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    (tmp_path / "work" / "nexa.toml").write_text('[clusters.far]\nhost = "slurm"\n')
    assert list(profiles()) == ["far"]
    (inner.parent / "nexa.toml").write_text('[clusters.near]\nhost = "slurm"\n')
    assert list(profiles()) == ["near"]
    (inner.parent / "nexa.toml").unlink()
    (inner.parents[1] / ".git").mkdir()
    assert list(profiles()) == []
    (inner.parents[1] / ".git").rmdir()
    monkeypatch.setenv("HOME", str(inner.parents[1]))
    assert list(profiles()) == []
    monkeypatch.setenv("HOME", str(tmp_path / "work"))
    assert list(profiles()) == ["far"]


def test_what_lies_above_the_users_own_folders_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Path("mine").absolute()
    inner.mkdir()
    Path("nexa.toml").write_text('[clusters.planted]\nhost = "slurm"\n')
    monkeypatch.chdir(inner)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert profiles() == {}


# ---- mistakes, with their lines --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[clusters.a]\nhost = "slurm"\n\nrunz = "/x"\n', 4, "'runz' is not known here; did you mean 'runs'?"),
        ('[clusters.a]\nhost = "slurm"\npartition = "gpu"\n', 3, r"'partition' is a field of a job; write it below \[clusters\.a\.job\]"),
        ('# x\n\n[cluster.a]\nhost = "slurm"\n', 3, r"'cluster' is not known here; a cluster is a table \[clusters\.cluster\]"),
        ("clusterz = 1\n", 1, "did you mean 'clusters'"),
        ("clusters = 1\n", 1, r"clusters is a table, \[clusters\], not 1"),
        ('[[clusters]]\nhost = "slurm"\n', 1, "clusters is a table, .*, not a list"),
        ('[clusters]\na = "slurm"\n', 2, r"a is a table, \[clusters\.a\], not 'slurm'"),
        ('[clusters.b]\nhost = "slurm"\n[clusters.a]\nruns = "/x"\n', 3, "a has no host; add one"),
        ('[clusters.a]\nruns = "/x"\nhost = "slurn"\n', 3, "did you mean 'slurm'"),
        ('[clusters.a]\nhost = "slurm"\n\nhosts = ["gpu1"]\n', 4, "a has host and hosts; give one"),
        ('[clusters.a]\nhosts = "gpu1"\n', 2, "hosts is a list of bare machines, .*, not 'gpu1'"),
        ("[clusters.a]\nhosts = []\n", 2, "hosts is a list of bare machines, .*, not a list"),
        ('[clusters.a]\nhosts = ["gpu1", 2]\n', 2, "hosts is text, not 2"),
        ('[clusters.a]\nhosts = ["gpu1", "gpu1"]\n', 2, "gpu1 is given twice"),
        ('[clusters.a]\nhosts = ["gpu1,gpu2"]\n', 2, "'gpu1,gpu2' is no host; give each as a text of its own"),
        ('[clusters.a]\nhosts = ["-oProxyCommand=x"]\n', 2, "is no host's name"),
        ('[clusters.a]\nhosts = ["ada:s3cr3t@gpu1"]\n', 2, "hosts holds a password; leave it out"),
        ("[clusters.a]\nhost = true\n", 2, "host is text, not true"),
        ('[clusters.a]\nhost = "ssh://"\n', 2, "host: 'ssh://' is no address of a host"),
        ('[clusters.a]\nhost = "ssh://h:x"\n', 2, "'x' is no port"),
        ('[clusters.a]\nhost = "ssh://h/scratch"\n', 2, "is no address"),
        ('[clusters.a]\nhost = "ssh://ada:hush@h"\n', 2, "host holds a password"),
        *(
            (f'[clusters.a]\nhost = "slurm"\nprometheus = "{address}"\n', 3, "is no address; write http://host:9090")
            for address in ("http://[::1", "http://prom:x", "http://prom:99999", "http://", "prom:9090")
        ),
        ('[clusters.a]\nhost = "slurm"\nruns = "runs"\n', 3, "depends on where one stands"),
        ('[clusters.a]\nhost = "slurm"\nruns = "/a\\"b"\n', 3, "double quote"),
        ('[clusters.a]\nhost = "slurm"\nruns = ["/a"]\n', 3, "runs is text, not a list"),
        ('[clusters.a]\nhost = "slurm"\ncontainer = 3\n', 3, "container is text, not 3"),
        ('[clusters.a]\nhost = "slurm"\ncontainer = " "\n', 3, "or leave it out"),
        ('[clusters.a]\nhost = "slurm"\nmodules = [\n  "a",\n  "b c",\n]\n', 3, "modules: 'b c' can't stand in an #SBATCH line"),
        ('[clusters.a]\nhost = "slurm"\nmodules = ["x"]\n[clusters.a.job]\nmodules = ["y"]\n', 5, "give them once"),
        ('[clusters.a]\nhost = "slurm"\njob = "gpu"\n', 3, r"job is a table, \[clusters\.a\.job\], not 'gpu'"),
        ('[clusters.a]\nhost = "slurm"\nnote = """\n[clusters.a.job]\n"""\n', 3, "'note' is not known"),
        ('[clusters.a]\nhost = "slurm"\n[clusters.a.job]\ntime = "120"\n', 4, "job.time: '120'"),
        (
            '[clusters.a]\nhost = "slurm"\n[clusters.a.job]\naccount = "x"\npartitoin = "gpu"\n',
            5,
            "job.partitoin: no such field; did you mean 'partition'",
        ),
        (
            '[clusters.a]\nhost = "slurm"\n[clusters.a.job]\ngpus = 1\nnodes = 1\ngpus_per_node = 2\n',
            4,
            "job: gpus and gpus_per_node count the same",
        ),
        (
            '[clusters.a]\nhost = "slurm"\n[clusters.a.job]\nmem = 16.5\ntime = 7\n',
            4,
            r"job\.mem: 16\.5 is no amount.*; line 5: job\.time: ",
        ),
        ('[clusters.a]\nhost = "slurm"\n[clusters.a.job.env]\nA = "1"\nB = 2\n', 5, r"job\.env\.B: "),
        (
            '[clusters.a]\nhost = "slurm"\n[clusters.a.rates]\nh100 = 2\na100 = 0\n',
            5,
            r"rates\.a100 is USD of a GPU-hour, a number above 0, not 0",
        ),
        ('[clusters.a]\nhost = "slurm"\nrates = {h100 = -2.5}\n', 3, r"not -2\.5"),
        ('[clusters.a]\nhost = "slurm"\nrates.h100 = nan\n', 3, "not nan"),
        ('[clusters.a]\nhost = "slurm"\nrates.h100 = inf\n', 3, "not inf"),
        ('[clusters.a]\nhost = "slurm"\nrates.h100 = "2"\n', 3, "not '2'"),
        ('[clusters.a]\nhost = "slurm"\nrates.h100 = true\n', 3, "not true"),
        ('\n[clusters.local]\nhost = "slurm"\n', 2, "'local' means something already"),
        ('[clusters.a]\nhost = "slurm"\n[clusters."ssh://x"]\nhost = "slurm"\n', 3, "'ssh://x' means something already"),
        ('[clusters."a b"]\nhost = "slurm"\n', 1, "'a b' is no name of a cluster"),
        ('[clusters.a]\nhost = "slurm"\n[clusters.a.job]\ntime = 2:00:00\n', 4, "this is no TOML: .*; text stands in quotes"),
        ("[clusters.a]\nhost = slurm\n", 2, "this is no TOML"),
        ('[clusters.a]\nhost = "slurm"\nhost = "local"\n', 3, "this is no TOML: Cannot overwrite a value"),
        ("[clusters.a]\nmodules = [\n", 2, "this is no TOML"),
    ],
)
def test_a_mistake_names_its_file_and_line(users: Path, text: str, line: int, words: str) -> None:
    users.write_text(text)
    with pytest.raises(ProfileError, match=f"(?s){words}") as caught:
        profiles()
    assert (caught.value.path, caught.value.line) == (users, line)
    assert str(caught.value).startswith(f"{users}, line {line}: ")
    assert isinstance(caught.value, InvalidInput)
    assert "hush" not in str(caught.value)
    # With the line ends of another system, and where the file begins with a mark, the lines are the same.
    users.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    with pytest.raises(ProfileError) as again:
        profiles()
    assert again.value.line == line


def test_what_can_not_be_read(users: Path) -> None:
    users.write_bytes(b'[clusters.a]\nhost = "\xff"\n')
    with pytest.raises(ProfileError, match="line 2: this is no UTF-8"):
        profiles()
    users.unlink()
    users.mkdir()
    with pytest.raises(ProfileError, match="can't be read: Is a directory"):
        profiles()


def test_names_that_need_no_file_read_none(users: Path) -> None:
    users.write_text("no TOML")
    assert set(RESERVED) == set(KNOWN)
    assert [Cluster(name).url for name in RESERVED] == [*RESERVED]
    assert Cluster("ssh://host").url == "ssh://host"
    with pytest.raises(ProfileError):
        Cluster("work")


def test_an_unknown_name_is_told_the_nearest(users: Path) -> None:
    with pytest.raises(ClusterNotFound, match="did you mean 'slurm'"):
        Cluster("slrum")
    users.write_text(WORK)
    with pytest.raises(ClusterNotFound, match=r"did you mean 'work'\?.*clusters\.toml"):
        Cluster("wrok")
    with pytest.raises(ClusterNotFound, match="known: local, sandbox, slurm, work"):
        Cluster("zzz")
    assert repr(Cluster("work")) == "<Cluster work: ssh://ada@login.example.org, the Slurm behind this login node>"
    assert Cluster("work").url == "ssh://ada@login.example.org"


# ---- Cluster(name) ---------------------------------------------------------------------------------------------


def test_a_cluster_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here('time = "0:05:00"\n')
    monkeypatch.setenv("NEXA_RUNS", str(tmp_path / "other"))
    cluster = Cluster("here")
    assert (cluster.name, cluster.url, cluster.runs_folder) == ("here", "local", f"{Path.cwd()}/runs")
    assert repr(cluster).startswith("<Cluster here: local, this machine")
    assert Cluster("here", runs=tmp_path / "third").runs_folder == str(tmp_path / "third")
    assert cluster.watcher is Cluster("local").watcher


def test_a_run_is_found_again_when_its_clusters_name_is_gone() -> None:
    here('time = "0:05:00"\nenv = {A = "1"}\n')
    run = Cluster("here").launch(SWEEP).wait(timeout=240)
    Path("nexa.toml").unlink()
    assert attach(run.id).job == Job(time="0:05:00", env={"A": "1"})
    assert list(attach(run.id).status()["state"]) == ["COMPLETED"] * 2
    # What it is called changes nothing: the same job, given by hand, is the same run.
    again = Cluster("local", runs=Path("runs")).launch(SWEEP, time="0:05:00", env={"A": "1"})
    assert again.id == run.id


def test_the_digest_knows_no_names() -> None:
    here('time = "0:05:00"\n')
    named = Cluster("here").plan(SWEEP, gpus=1)
    assert named.digest == Cluster("local").plan(SWEEP, time="0:05:00", gpus=1).digest
    assert named.digest != Cluster("local").plan(SWEEP, gpus=1).digest


def test_defaults_fill_what_is_left_open_and_explicit_wins() -> None:
    here('partition = "gpu"\ntime = "2:00:00"\nenv = {A = "1"}\nmodules = ["a"]\n')
    plan = Cluster("here").plan
    whole = {"partition": "gpu", "time": "2:00:00", "env": {"A": "1"}, "modules": ["a"]}
    assert plan(SWEEP).job == Job(**whole)
    assert plan(SWEEP, Job(time="1:00:00")).job == Job(**{**whole, "time": "1:00:00"})
    assert plan(SWEEP, Job(time="1:00:00"), time="3:00:00").job == Job(**{**whole, "time": "3:00:00"})
    assert plan(SWEEP, env={"B": "2"}, modules=[], partition=None).job == Job(time="2:00:00", env={"B": "2"}, modules=[], partition=None)
    assert plan(Definition(SWEEP, Job(partition="cpu"), None)).job == Job(**{**whole, "partition": "cpu"})
    assert plan(SWEEP).job == Job(**whole), "nothing given to one plan stays for the next"


def test_a_default_gives_way_to_another_field_for_the_same() -> None:
    here('gpus_per_node = 4\ngpu_type = "h100"\nvenv = "/envs/a"\n')
    plan = Cluster("here").plan
    assert plan(SWEEP, gpus=1).job == Job(gpus=1, gpu_type="h100", venv="/envs/a")
    assert plan(SWEEP, gpus_per_node=None, conda="b").job == Job(gpus_per_node=None, conda="b")
    here('gpu_type = "h100"\n')
    assert plan(SWEEP).job.gpu_count == 4, "what a cluster was made of stays"
    assert Cluster("here").plan(SWEEP).job == Job()
    assert Cluster("here").plan(SWEEP, gpus=2).job == Job(gpus=2, gpu_type="h100")


def test_what_only_the_defaults_make_wrong_is_said_so() -> None:
    here('retry = "by-cause"\n')
    plan = Cluster("here").plan
    with pytest.raises(JobError, match=r"canary=True can't go with retry=.*\(cluster 'here' gives retry; .*None too\)"):
        plan(SWEEP, canary=True)
    assert plan(SWEEP, canary=True, retry=None).job.canary
    with pytest.raises(JobError) as caught:
        plan(SWEEP, time="120")
    assert "cluster 'here'" not in str(caught.value)


def test_the_list_of_clusters(users: Path, home: Path) -> None:
    users.write_text(WORK)
    here('time = "0:05:00"\n')
    assert clusters().reset_index().values.tolist() == [
        ["local", "local", str(home / "runs"), ""],
        ["sandbox", "sandbox", str(home / "runs"), ""],
        ["slurm", "slurm", str(home / "runs"), ""],
        ["work", "ssh://ada@login.example.org", "/scratch/ada/runs", str(users)],
        ["here", "local", f"{Path.cwd()}/runs", f"{Path.cwd()}/nexa.toml"],
    ]

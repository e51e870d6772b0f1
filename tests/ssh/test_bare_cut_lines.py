"""The line to one of two bare machines is cut after so many bytes of a launch: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from cutting import TRIALS, WORDS, Outcome, chosen_cuts, judge, parametrize, play
from hosts import Hosts
from loopback import Line

from nexa_sdk import Cluster, Sweep

SIDE_BY_SIDE = 4
NAMES = ("gpu1", "gpu2")


@dataclass(frozen=True)
class Cut:
    """Where a launch is cut: whose line, how far into all bytes of a direction, and for how long nobody is let in."""

    number: int
    host: str
    direction: str
    share: float
    down_for: float

    def __str__(self) -> str:
        return f"{self.number}-{self.host}-{self.direction}-{self.share:.3f}-{self.down_for:g}s"


def cuts(count: int, seed: int) -> list[Cut]:
    drawn = random.Random(seed)
    return [
        Cut(n, NAMES[n // 2 % 2], "up" if n % 2 else "down", (n + drawn.random()) / count, drawn.choice((0.0, 0.0, 3.0)))
        for n in range(count)
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, cuts)


class Stage:
    """Two hosts, and lines to them of each launch's own."""

    def __init__(self, hosts: Hosts, folder: Path, names: list[str]) -> None:
        self.hosts, self.folder = hosts, folder
        self.config = hosts.write_client(folder / "ssh")
        self.lines = {(name, host): Line(22, host=hosts[host].ip) for name in names for host in NAMES}
        text = "".join(
            f"Host {host}-{name}\n  HostName 127.0.0.1\n  Port {line.port}\n  HostKeyAlias {host}\n"
            for (name, host), line in self.lines.items()
        )
        self.config.write_text(text + self.config.read_text())

    def plan(self, name: str):
        cluster = Cluster.hosts(*(f"{host}-{name}" for host in NAMES))
        sweep = Sweep(WORDS, {"n": list(range(TRIALS))}, fixed={"begun": f"/root/begun-{name}"}, style="env", name=f"cut-{name}")
        return cluster.plan(sweep, time="0:05:00", workdir="/root")

    def begun(self, name: str) -> Counter[int]:
        marks = [self.hosts[host].path(f"/root/begun-{name}") for host in NAMES]
        return Counter(int(word) for mark in marks if mark.exists() for word in mark.read_text().split())

    def close(self) -> None:
        for line in self.lines.values():
            line.close()
        for host in NAMES:
            self.hosts[host].enter("sh", "-c", "rm -rf /root/.nexa /root/begun-*")


@pytest.fixture(scope="module")
def outcomes(all_hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[dict[Cut, Future[Outcome]]]:
    """Play all cuts, some at once."""
    chosen = chosen_cuts(request)
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    patch = pytest.MonkeyPatch()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(patch.undo)
        stage = stack.enter_context(closing(Stage(all_hosts, folder, ["whole", *(str(cut.number) for cut in chosen)])))
        patch.setenv("NEXA_HOME", str(folder / "home"))
        patch.setenv("NEXA_SSH_CONFIG", str(stage.config))
        whole = undisturbed(stage)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            yield {cut: pool.submit(played, cut, stage, whole) for cut in chosen}


def undisturbed(stage: Stage) -> dict[tuple[str, str], int]:
    """Count the bytes of a launch, by host and direction."""
    stage.plan("whole").submit().wait(timeout=240, progress=False)  # the first time more is sent
    plan = stage.plan("whole")
    before = {host: dict(stage.lines["whole", host].passed) for host in NAMES}
    run = plan.submit(again=True)
    whole = {
        (host, direction): stage.lines["whole", host].passed[direction] - count
        for host, counts in before.items()
        for direction, count in counts.items()
    }
    run.wait(timeout=240, progress=False)
    return whole


def played(cut: Cut, stage: Stage, whole: dict[tuple[str, str], int]) -> Outcome:
    name = str(cut.number)
    line, of = stage.lines[name, cut.host], whole[cut.host, cut.direction]
    return play(stage.plan(name), cut, line, of=of, begun=lambda: stage.begun(name))[0]


def test_a_cut_loses_nothing_and_runs_nothing_twice(outcomes: dict[Cut, Future[Outcome]], cut: Cut, request: pytest.FixtureRequest) -> None:
    judge(outcomes[cut].result(), cut, request.node, table="cut lines to one of two bare machines")

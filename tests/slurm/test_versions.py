"""What a trial's state is, in every case of Slurm's table of states, on Slurm 20.11, 22.05, 24.11 and 26.05.

bin/slurm-versions has the versions that this machine has not. UPDATE_RECORDED=1 writes down, in
tests/data/slurm, what squeue and sacct printed; tests/unit/test_recorded.py reads it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from versions import NATIVE, REPOSITORY, VERSIONS, sandbox_of

from nexa_sdk import Cluster, Sweep
from nexa_sdk.run import Run
from nexa_sdk.scheduling.environment import for_questions
from nexa_sdk.scheduling.slurm.accounting import SACCT_FIELDS, SQUEUE_FORMAT
from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec
from nexa_sdk.states import State

RECORDED = REPOSITORY / "tests" / "data" / "slurm"
PATIENCE = 240.0  # seconds: a walltime of one minute may end a minute late
MANY = [pytest.param(version, marks=[] if version == NATIVE else pytest.mark.full) for version in dict.fromkeys([NATIVE, *VERSIONS])]
# What is requeued waits for longer than accounting may go unasked, so that it is shown as waiting.
SPEC = SandboxSpec(nodes=3, gpus_per_node=0, min_job_age=40, slurmd_timeout=20, cred_expire=45, kill_wait=2)


@pytest.fixture(scope="module", params=MANY)
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Start a sandbox of a version; node n1 is everybody's, n2 is for preemption, n3 gets lost."""
    with sandbox_of(request.param, SPEC) as sandbox:
        yield sandbox


class Scene:
    """One version of Slurm, and what a scenario does to it."""

    def __init__(self, box: Sandbox, version: str) -> None:
        self.box = box
        self.version = tuple(map(int, version.split(".")))
        self.cluster = Cluster("sandbox")

    def launch(self, script: str, *values: object, **job: object) -> Run:
        """Launch a bash script as an array; it has its trial's value as $1."""
        name = f"trial-{len(list(Path().iterdir()))}.sh"
        Path(name).write_text(f"{script}\n")
        sweep = Sweep(f"bash {name} {{x}}", {"x": values or [0]})
        return self.cluster.launch(sweep, again=True, **{"time": "0:10:00", "nodelist": "n1", **job})

    def job(self, run: Run) -> str:
        return run.status()["job"][0].partition("_")[0]

    def ask(self, *command: str) -> str:
        """Return what a Slurm command says, asked as we ask."""
        done = subprocess.run(command, env=for_questions(os.environ), capture_output=True, text=True)
        assert done.returncode == 0 or "Invalid job id" in done.stderr, done.stderr
        return done.stdout

    def squeue(self, job: str) -> str:
        return self.ask("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", SQUEUE_FORMAT)

    def sacct(self, job: str) -> str:
        return self.ask("sacct", "-n", "-P", "-X", "-D", "-j", job, f"--format={SACCT_FIELDS}")

    def shown(self, run: Run) -> list[str]:
        """Return what the user is shown of each trial: state and exit code; and of what it was before a requeue."""
        table = run.attempts()
        words: dict[int, list[str]] = {}
        for (trial, _), state, code in zip(table.index, table["state"], table["exit_code"].astype(object), strict=True):
            words.setdefault(trial, []).append(f"{state} {code}" if isinstance(code, int) else state)
        return [" after ".join(filter(None, [words[k][-1], ", ".join(each.split()[0] for each in words[k][:-1])])) for k in sorted(words)]


# ---- scenarios: each does something, then says what is to be shown -----------------------------------

# Wait until this is shown of the run, or until a condition holds. "remembered": Slurm knows nothing of it.
Step = tuple[Run, list[str]] | Callable[[], object]
Scenario = Callable[[Scene], Iterator[Step]]


def exit_codes(scene: Scene) -> Iterator[Step]:
    commands = ["exit 0", "exit 7", "exit 137", "exit 139", "kill -9 $$", "kill -9 $PPID", "srun false; exit 0"]
    run = scene.launch('eval "$1"', *commands)
    yield run, ["COMPLETED 0", "FAILED 7", "FAILED 137", "FAILED 139", "FAILED 137", "FAILED 137", "COMPLETED 0"]


def many_that_end_at_once(scene: Scene) -> Iterator[Step]:
    yield scene.launch("exit 0", *range(12)), ["COMPLETED 0"] * 12


def running_ones_cancelled_by_us_and_by_others(scene: Scene) -> Iterator[Step]:
    run = scene.launch("sleep 300", 0, 1, 2)
    yield run, ["RUNNING"] * 3
    run.cancel([0])
    scene.ask("scancel", f"{scene.job(run)}_1")
    yield run, ["CANCELLED", "CANCELLED", "RUNNING"]
    yield lambda: run.status()["reason"].tolist() == ["cancelled by uid 0", "cancelled by uid 0", ""]  # accounting says it, later
    run.cancel()
    yield run, ["CANCELLED"] * 3


def pending_ones_cancelled_alone_and_then_the_rest(scene: Scene) -> Iterator[Step]:
    run = scene.launch("until [ -e go-$1 ]; do sleep 0.2; done", *range(6), throttle=1)
    yield run, ["RUNNING", *["PENDING"] * 5]
    run.cancel([2])
    scene.ask("scancel", f"{scene.job(run)}_3")
    yield run, ["RUNNING", "PENDING", "CANCELLED remembered", "UNKNOWN remembered", "PENDING", "PENDING"]
    Path("go-0").touch()
    yield run, ["COMPLETED 0", "RUNNING", "CANCELLED remembered", "UNKNOWN remembered", "PENDING", "PENDING"]
    run.cancel()
    # We have cancelled whatever was left, and the one that others had cancelled with it.
    yield run, ["COMPLETED 0", "CANCELLED", "CANCELLED remembered", "CANCELLED remembered", "CANCELLED", "CANCELLED"]


def cancelled_as_soon_as_some_run(scene: Scene) -> Iterator[Step]:
    run = scene.launch("[ $1 = 0 ] || sleep 300", *range(10), throttle=3)
    yield lambda: scene.shown(run)[:5] == ["COMPLETED 0", "RUNNING", "RUNNING", "RUNNING", "PENDING"]
    scene.ask("scancel", scene.job(run))  # up to 23.11 the row of the others goes on to name one that has a row of its own
    yield run, ["COMPLETED 0", *["CANCELLED"] * 9]


def watched(scene: Scene) -> Iterator[Step]:
    """The agent runs on the node's own Python: 3.9 beside 20.11."""
    run = scene.launch("until [ -e seen ]; do sleep 0.2; done", telemetry=0.2)
    yield run, ["RUNNING"]
    yield lambda: len(run.utilization().dropna(subset=["cpu"])) > 2
    assert run.utilization().attrs["complaints"] == {}
    Path("seen").touch()
    yield run, ["COMPLETED 0"]


def never_started(scene: Scene) -> Iterator[Step]:
    run = scene.launch("exit 0", *range(3), options={"hold": True})
    yield run, ["PENDING"] * 3
    run.cancel()
    yield run, ["CANCELLED"] * 3


def no_folder_for_the_log(scene: Scene) -> Iterator[Step]:
    run = scene.launch("exit 0", options={"hold": True})
    Path(run.folder, "logs").rmdir()
    scene.ask("scontrol", "release", scene.job(run))
    words = "FAILED 1" if scene.version < (22, 5) else "FAILED" if scene.version < (23, 11) else "COMPLETED 0"
    yield run, [words]


def forgotten_before_anybody_asked(scene: Scene) -> Iterator[Step]:
    run = scene.launch('[ "$1" != wait ] || sleep 300; exit $1', 0, 7, 137, "wait", "wait", throttle=1)
    job = scene.job(run)
    yield lambda: scene.squeue(job).count("RUNNING") == 1 and scene.squeue(job).count("PENDING") == 1
    scene.ask("scancel", job)
    yield lambda: not scene.squeue(job)
    yield run, ["COMPLETED 0", "FAILED 7", "FAILED 137", "CANCELLED", "CANCELLED"]


def past_its_walltime(scene: Scene) -> Iterator[Step]:
    yield scene.launch("sleep 300", time="0:01:00"), ["TIMEOUT"]


def more_memory_than_it_asked_for(scene: Scene) -> Iterator[Step]:
    yield scene.launch("x=$(head -c 100000000 /dev/zero | tr '\\0' x); sleep 300", mem="50M"), ["FAILED 137"]


def requeued(scene: Scene) -> Iterator[Step]:
    run = scene.launch("[ $1 = quick ] || [ -e go-again ] || sleep 300", "quick", "slow", "unlucky", "last", requeue=True)
    job = scene.job(run)
    yield run, ["COMPLETED 0", "RUNNING", "RUNNING", "RUNNING"]
    yield lambda: scene.sacct(job).count("|RUNNING|") == 3  # 20.11 forgets an execution of a few seconds
    for task in range(3):
        scene.ask("scontrol", "requeue", f"{job}_{task}")
    first = "COMPLETED" if scene.version >= (26, 5) else "REQUEUED"
    yield run, [f"PENDING after {first}", "PENDING after REQUEUED", "PENDING after REQUEUED", "RUNNING"]
    scene.ask("scancel", f"{job}_2")
    Path("go-again").touch()
    yield run, [f"COMPLETED 0 after {first}", "COMPLETED 0 after REQUEUED", "CANCELLED after REQUEUED", "RUNNING"]
    run.cancel()
    yield run, [f"COMPLETED 0 after {first}", "COMPLETED 0 after REQUEUED", "CANCELLED after REQUEUED", "CANCELLED"]


def preempted(scene: Scene) -> Iterator[Step]:
    whole = {"nodelist": "n2", "cpus_per_task": 8}
    ended = scene.launch("sleep 300", partition="low", **whole)
    again = scene.launch("[ -e second ] || sleep 300", partition="lowrq", requeue=True, **whole)
    yield ended, ["RUNNING"]
    yield again, ["RUNNING"]
    yield lambda: "|RUNNING|" in scene.sacct(scene.job(again))
    urgent = scene.launch("until [ -e second ]; do sleep 0.2; done", nodelist="n2", cpus_per_task=16)
    yield ended, ["PREEMPTED"]
    yield again, ["PENDING after PREEMPTED"]
    Path("second").touch()
    yield urgent, ["COMPLETED 0"]
    yield again, ["COMPLETED 0 after PREEMPTED"]


def on_a_lost_node(scene: Scene) -> Iterator[Step]:
    ended = scene.launch("sleep 300", nodelist="n3", requeue=False)
    again = scene.launch("[ -e found ] || sleep 300", nodelist="n3", requeue=True)
    yield ended, ["RUNNING"]
    yield again, ["RUNNING"]
    scene.box.down("slurmd-n3")
    yield ended, ["NODE_FAIL"]
    yield again, ["PENDING after NODE_FAIL"]
    Path("found").touch()
    scene.box.up("slurmd-n3")
    yield again, ["COMPLETED 0 after NODE_FAIL"]


QUICK: list[Scenario] = [
    exit_codes,
    many_that_end_at_once,
    running_ones_cancelled_by_us_and_by_others,
    pending_ones_cancelled_alone_and_then_the_rest,
    cancelled_as_soon_as_some_run,
    watched,
    never_started,
    no_folder_for_the_log,
]
SLOW: list[Scenario] = [
    forgotten_before_anybody_asked,
    past_its_walltime,
    more_memory_than_it_asked_for,
    requeued,
    preempted,
    on_a_lost_node,
]


# ---- side by side ------------------------------------------------------------------------------------


class Play:
    """A scenario under way."""

    def __init__(self, scene: Scene, scenario: Scenario) -> None:
        self.scene = scene
        self.name = scenario.__name__
        self.steps = scenario(scene)
        self.before: dict[str, list[str]] = {}
        self.record: list[str] = []
        self.settled_at: float | None = None
        self.is_over = False
        self.next()

    def next(self) -> None:
        self.deadline = time.monotonic() + PATIENCE
        self.settled_at = None
        step = next(self.steps, None)
        self.is_over = step is None
        if step is not None:
            self.step = step

    def look(self) -> None:
        """Look whether what is to come has come, and whether nothing false is shown on the way."""
        if callable(self.step):
            if self.step():
                self.next()
            assert time.monotonic() < self.deadline, f"{self.name}: it did not come to that"
            return
        run, expected = self.step
        wanted = [words.removesuffix(" remembered") for words in expected]
        now = self.scene.shown(run)
        self.refuse_what_is_false(run, now, wanted)
        if now != wanted:
            assert self.settled_at is None, f"{self.name}: {wanted} became {now}"
            assert time.monotonic() < self.deadline, f"{self.name}: {now} is shown, not {wanted}"
        elif not os.environ.get("UPDATE_RECORDED"):
            self.arrive(run, wanted)
        elif self.settled_at is None:
            self.write("at once", run, expected)
            self.settled_at = time.monotonic() + 6  # accounting may be so late
        elif time.monotonic() > self.settled_at:
            self.write("later", run, expected)
            self.arrive(run, wanted)

    def arrive(self, run: Run, shown: list[str]) -> None:
        self.before[run.id] = shown
        self.next()

    def refuse_what_is_false(self, run: Run, now: list[str], wanted: list[str]) -> None:
        for trial, words in enumerate(now):
            state = State(words.split()[0])
            known = [self.before[run.id][trial].split()[0]] if run.id in self.before else []
            is_true = state in [*known, wanted[trial].split()[0]] or not (state.is_terminal or state is State.UNKNOWN)
            assert is_true, f"{self.name}: trial {trial} is shown as {words!r} on its way to {wanted[trial]!r}"

    def write(self, when: str, run: Run, expected: list[str]) -> None:
        job = self.scene.job(run)
        shown, text = "; ".join(expected), f"-- squeue\n{self.scene.squeue(job)}-- sacct\n{self.scene.sacct(job)}"
        if self.record and self.record[-1].partition(": ")[2] == f"{shown}\n{text}":  # nothing came late
            self.record.pop()
        self.record.append(f"== {when}: {shown}\n{text}")

    def save(self, version: str) -> None:
        if self.record:
            path = RECORDED / version / f"{self.name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(self.record))


def play(box: Sandbox, version: str, scenarios: list[Scenario]) -> None:
    scene = Scene(box, version)
    plays = [Play(scene, scenario) for scenario in scenarios]
    failures: list[Exception] = []
    while active := [each for each in plays if not each.is_over]:
        for each in active:
            try:
                each.look()
            except AssertionError as failure:
                failures.append(failure)
                each.is_over = True
            else:
                if each.is_over:
                    each.save(version)
        time.sleep(0.2)
    if failures:
        raise ExceptionGroup(f"Slurm {version}", failures)


@pytest.fixture
def version(request: pytest.FixtureRequest, box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make Cluster("sandbox") and Slurm's own commands those of the version."""
    monkeypatch.setenv("NEXA_SANDBOX", str(box.folder))
    for name, value in box.environment.items():
        monkeypatch.setenv(name, value)
    return str(request.node.callspec.params["box"])


@pytest.mark.timeout(900)  # the root file system of the version may have to be made
def test_states_that_come_soon(box: Sandbox, version: str) -> None:
    play(box, version, QUICK)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_states_that_take_their_time(box: Sandbox, version: str) -> None:
    play(box, version, SLOW)

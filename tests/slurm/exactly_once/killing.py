"""Play a point: launch, kill, come back, and count how often each trial ran."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from points import KillPoint, Situation

from nexa_sdk.journal import Journal

__all__ = ["Outcome", "Stage", "judge", "play", "undisturbed"]

PATIENCE = 180.0  # seconds until a run has to have ended

TRIAL = """\
echo "$NEXA_TRIAL $$ ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" >> ../ran
[ ! -e ../fails-first ] || [ -e ../mended ]
"""


@dataclass
class Outcome:
    """What came of a point."""

    kind: str
    lost: list[int] = field(default_factory=list)
    twice: list[int] = field(default_factory=list)
    found: int = 0  # arrays that had arrived when the process died
    sent: int = 0  # arrays that were sent again
    fenced: int = 0  # arrays that Slurm took twice: the claim kept the second from running
    was_killed: bool = True
    wrong: list[str] = field(default_factory=list)
    said: str = ""
    seconds: float = 0.0


class Stage:
    """A home, a working directory and a runs folder of its own for one point."""

    def __init__(self, situation: Situation, environment: Mapping[str, str], *, cluster: str = "slurm") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
        self.situation = situation
        (self.folder / "work").mkdir()
        (self.folder / "bin").mkdir()
        (self.folder / "work" / "trial.sh").write_text(TRIAL)
        if situation.what == "retry":
            (self.folder / "fails-first").touch()
        self.environment = {
            **os.environ,
            **environment,
            "NEXA_HOME": str(self.folder / "home"),
            "NEXA_RUNS": str(self.folder / "runs"),
        }
        told = {"cluster": cluster, "what": situation.what, "trials": situation.trials, "throttle": situation.throttle, "patience": PATIENCE}
        (self.folder / "situation.json").write_text(json.dumps(told))

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "home" / "journal.sqlite")

    def start(self, *arguments: object, shimmed: bool = False) -> subprocess.Popen[str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}" if shimmed else os.environ["PATH"]
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("launching.py")), "../situation.json", *map(str, arguments)],
            cwd=self.folder / "work",
            env={**self.environment, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def shim(self, program: str, text: str) -> None:
        path = self.folder / "bin" / program
        path.write_text(text)
        path.chmod(0o755)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def lines_of(said: str) -> dict[str, Any]:
    """Join what a child said; it prints other lines too."""
    found: dict[str, Any] = {}
    for line in said.splitlines():
        if line.startswith("{"):
            found.update(json.loads(line))
    return found


def undisturbed(situation: Situation, environment: Mapping[str, str], *, cluster: str = "slurm") -> tuple[int, float]:
    """Return how many lines a submission has, and the seconds that it takes when nobody counts them."""
    stage = Stage(situation, environment, cluster=cluster)
    try:
        said, errors = stage.start("act").communicate(timeout=PATIENCE)
        told = lines_of(said)
        assert "lines" in told, errors
        return told["lines"], told["seconds"]
    finally:
        stage.remove()


def play(point: KillPoint, environment: Mapping[str, str], size: tuple[int, float], *, cluster: str = "slurm") -> Outcome:
    """Kill a submission at a point, have its user come back, and judge."""
    began = time.monotonic()
    stage = Stage(point.situation, environment, cluster=cluster)
    try:
        outcome = Outcome(point.kind)
        outcome.was_killed = _kill(stage, point, size)
        records = stage.journal.runs()
        open_ones = [array for run in records for array in stage.journal.arrays(run.id) if array.outcome != "submitted"]
        count = 2 if point.then == "twice" else 1
        how = "again" if point.then == "twice" else point.then
        children = [stage.start(how) for _ in range(count)]
        ends = [child.communicate(timeout=PATIENCE + 120) for child in children]
        outcome.said = "\n".join(f"{said}{errors}" for said, errors in ends)
        for child, (said, errors) in zip(children, ends, strict=True):
            if child.returncode:
                outcome.wrong.append(f"coming back failed: {errors.strip().splitlines()[-1:]}")
        judge(stage, outcome, environment)
        for array in open_ones:
            (after,) = (found for found in stage.journal.arrays(array.run) if found.token == array.token)
            outcome.sent += after.sends > array.sends
            outcome.found += after.sends == array.sends
        outcome.seconds = time.monotonic() - began
        return outcome
    finally:
        stage.remove()


def judge(stage: Stage, outcome: Outcome, environment: Mapping[str, str], *, times: int | None = None) -> None:
    """Count how often each trial ran, as the program itself and as Slurm tell, and look into the journal."""
    times = times or (2 if stage.situation.what == "retry" else 1)
    ran = stage.folder / "ran"
    lines = [line.split() for line in ran.read_text().splitlines()] if ran.exists() else []
    counts = Counter(int(trial) for trial, _, _ in lines)
    outcome.lost = [trial for trial in range(stage.situation.trials) if counts[trial] < times]
    outcome.twice = [trial for trial in range(stage.situation.trials) if counts[trial] > times]
    records = stage.journal.runs()
    if len(records) != 1:
        outcome.wrong.append(f"the journal has {len(records)} runs")
        return
    arrays = stage.journal.arrays(records[0].id)
    if (recorded := stage.journal.outcome(records[0].id)) != "COMPLETED":
        outcome.wrong.append(f"the journal has the run as {recorded}: {[(a.token, a.outcome, a.words, a.final) for a in arrays]}")
    jobs = {array.job_id for array in arrays}
    strangers = {job.partition("_")[0] for _, _, job in lines} - jobs
    if strangers:
        outcome.wrong.append(f"jobs {strangers} carried trials, and the journal has {jobs}")
    if "SLURM_CONF" in environment:
        listed = subprocess.run(
            ["squeue", "-h", "-t", "all", "-o", "%j %F"], env={**os.environ, **environment}, capture_output=True, text=True, check=True
        ).stdout
        named = {tuple(line.split()) for line in listed.splitlines() if line.startswith(records[0].id)}
        outcome.fenced = len(named) - len({token for token, _ in named})


# ---- killing -------------------------------------------------------------------------------------------


def _kill(stage: Stage, point: KillPoint, size: tuple[int, float]) -> bool:
    """Start a submission, and see to it that it dies at the point; say whether it did."""
    lines, seconds = size
    if point.kind == "line":
        child = stage.start("act", max(1, int(point.where * lines)))
        if point.whole_session:
            return _end(child, stage)
    elif point.kind == "step":
        _lay_shim(stage, point)
        child = stage.start("act", shimmed=True)
        assert child.stdout is not None
    else:
        child = stage.start("act")
    assert child.stdout is not None
    for line in child.stdout:
        if '"begins"' in line:
            (stage.folder / "pid").write_text(str(child.pid))
            break
    if point.kind == "time":
        time.sleep(point.where * seconds)
        if point.whole_session:
            with _stopped(child.pid):
                _kill_sessions(child.pid)
        child.kill()
    child.communicate(timeout=PATIENCE)
    return child.returncode == -signal.SIGKILL


def _end(child: subprocess.Popen[str], stage: Stage) -> bool:
    """Wait for a child that kills itself; between lines no shell of it is under way."""
    child.communicate(timeout=PATIENCE)
    return child.returncode == -signal.SIGKILL


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    yield


def _kill_sessions(parent: int) -> None:
    """Kill the shells that a process started, and their sbatch."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                os.killpg(int(entry.name), signal.SIGKILL)


def _lay_shim(stage: Stage, point: KillPoint) -> None:
    """Put a script before one of the shell's programs that kills, once, at the chosen array."""
    when, program = point.step.split()
    nth = int(point.where * point.situation.arrays) + 1
    if point.situation.what == "retry":
        nth = 1
    real = shutil.which(program)
    kill = f'kill -9 "$(cat {stage.folder}/pid)"' + ("; kill -9 0" if point.whole_session else "")
    # Only what the submitting shell does counts: the same programs are the tasks' own, and of the looking up.
    ours = {"mv": '[[ "$*" == *submitted/* ]]', "mkdir": '[[ "$*" == *submitted* ]]', "sbatch": '[[ "$*" == *--parsable* ]]'}
    act = f'{kill}; exec {real} "$@"' if when == "before" else f'{real} "$@" > "$d/out"; code=$?; {kill}; cat "$d/out"; exit $code'
    stage.shim(
        program,
        f"""#!/bin/bash
d={stage.folder}/bin
if [[ -e {stage.folder}/pid && ! -e $d/fired ]] && {ours.get(program, "true")}; then
  echo >> "$d/calls"
  if [[ $(wc -l < "$d/calls") == {nth} ]]; then touch "$d/fired"; {act}; fi
fi
exec {real} "$@"
""",
    )


def told(outcomes: Sequence[tuple[str, Outcome]]) -> list[str]:
    """Return the table: a line for each kind of fault."""
    head = f"{'fault':34} {'points':>6} {'found':>6} {'sent':>6} {'lost':>5} {'twice':>6} {'fenced':>7} {'wrong':>6} {'seconds':>8}"
    rows = [head]
    for kind in dict.fromkeys(kind for kind, _ in outcomes):
        of = [outcome for other, outcome in outcomes if other == kind]
        numbers = [sum(len(o.lost) for o in of), sum(len(o.twice) for o in of), sum(o.fenced for o in of), sum(bool(o.wrong) for o in of)]
        rows.append(
            f"{kind:34} {len(of):6} {sum(o.found for o in of):6} {sum(o.sent for o in of):6} "
            f"{numbers[0]:5} {numbers[1]:6} {numbers[2]:7} {numbers[3]:6} {sum(o.seconds for o in of):8.0f}"
        )
    return rows

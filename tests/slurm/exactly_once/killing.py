"""Play a point: launch, kill, come back, and count how often each trial ran."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from points import KillPoint, Situation
from stage import PATIENCE, Stage, lines_of
from verdict import Outcome, judge

__all__ = ["come_back", "play", "undisturbed"]


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
        come_back(stage, outcome, point.then)
        judge(stage, outcome, environment)
        for array in open_ones:
            (after,) = (found for found in stage.journal.arrays(array.run) if found.token == array.token)
            outcome.sent += after.sends > array.sends
            outcome.found += after.sends == array.sends
        outcome.seconds = time.monotonic() - began
        return outcome
    finally:
        stage.remove()


def come_back(stage: Stage, outcome: Outcome, how: str) -> None:
    """Do what the user does then, in one new process or in two at once; it has to succeed."""
    children = [stage.start("again" if how == "twice" else how) for _ in range(2 if how == "twice" else 1)]
    ends = [child.communicate(timeout=PATIENCE + 120) for child in children]
    outcome.said += "\n".join(f"{said}{errors}" for said, errors in ends)
    for child, (_, errors) in zip(children, ends, strict=True):
        if child.returncode:
            outcome.wrong.append(f"coming back failed: {errors.strip().splitlines()[-1:]}")


def _kill(stage: Stage, point: KillPoint, size: tuple[int, float]) -> bool:
    """Start a submission, and see to it that it dies at the point; say whether it did."""
    lines, seconds = size
    if point.kind == "line":
        child = stage.start("act", max(1, int(point.where * lines)))
    elif point.kind == "step":
        _lay_shim(stage, point)
        child = stage.start("act", shimmed=True)
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

"""Play a controller's fault: disturb it while something is under way, heal it, come back, and judge."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import threading
import time

from faults import ControllerFault
from killing import come_back
from stage import PATIENCE, Stage, lines_of
from verdict import Outcome, judge, ran

from nexa_sdk.scheduling.slurm.sandbox import Sandbox

__all__ = ["disturb", "heal", "lay_gate"]

# Those that run wait here, so that there is something to cancel; a trial that is watched takes a while.
WAITING = """\
echo "$NEXA_TRIAL $$ ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID $SLURM_JOB_NAME" >> ../ran
until [ -e ../go-on ]; do sleep 0.3; done
"""
TAKES_A_WHILE = """\
echo "$NEXA_TRIAL $$ ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID $SLURM_JOB_NAME" >> ../ran
sleep 12
"""


def disturb(fault: ControllerFault, box: Sandbox) -> Outcome:
    """Play one fault on a sandbox that nobody else uses meanwhile."""
    began = time.monotonic()
    stage = Stage(fault.situation, box.environment)
    outcome = Outcome(fault.kind)
    try:
        if fault.during in ("before sbatch", "after sbatch", "retry"):
            _while_submitting(stage, fault, box, outcome)
        else:
            _while_working(stage, fault, box, outcome)
    finally:
        heal(box)
        _end_all(box)
        outcome.seconds = time.monotonic() - began
        stage.remove()
    return outcome


# ---- the fault -----------------------------------------------------------------------------------------


def _apply(fault: ControllerFault, box: Sandbox) -> None:
    if fault.what == "frozen":
        box.freeze(fault.daemon)
    elif fault.what == "killed":
        if (pid := box.status()[fault.daemon]) is not None:
            _kill(pid)
    else:
        box.down(fault.daemon)


def _kill(pid: int) -> None:
    import os

    os.kill(pid, signal.SIGKILL)


def heal(box: Sandbox) -> None:
    """Let every daemon go on."""
    for daemon, pid in box.status().items():
        if pid is None:
            box.up(daemon)
        else:
            box.thaw(daemon)


def _end_all(box: Sandbox) -> None:
    """Leave nothing to the next one."""
    with contextlib.suppress(subprocess.SubprocessError):
        box._ask("scancel", "--user", box._folder.record().site.user)


# ---- while it is submitted -----------------------------------------------------------------------------


def _while_submitting(stage: Stage, fault: ControllerFault, box: Sandbox, outcome: Outcome) -> None:
    lay_gate(stage, after=fault.during == "after sbatch", nth=fault.nth)
    child = stage.start("act", shimmed=True)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append(child.communicate(timeout=PATIENCE * 2)[0]))
    gate, opened = stage.folder / "gate", stage.folder / "open"
    while not gate.exists() and child.poll() is None:
        time.sleep(0.01)
    assert gate.exists(), child.communicate()
    reader.start()
    time.sleep(fault.delay if fault.during == "after sbatch" else 0)
    _apply(fault, box)
    opened.touch()
    time.sleep(fault.seconds)
    heal(box)
    reader.join()
    told = lines_of("\n".join(said))
    outcome.said = "\n".join(said)
    if child.returncode and "refused" not in told:
        outcome.wrong.append("the launch ended in an error that is none of ours")
    come_back(stage, outcome, "resume" if fault.number % 2 else "again")
    judge(stage, outcome, box.environment)


def lay_gate(stage: Stage, *, after: bool, nth: int) -> None:
    """Let the chosen sbatch wait, before or after the real one, until the fault is there."""
    real = shutil.which("sbatch")
    wait = f"touch {stage.folder}/gate; until [[ -e {stage.folder}/open ]]; do sleep 0.02; done"
    act = f'{real} "$@" > "$d/out"; code=$?; {wait}; cat "$d/out"; exit $code' if after else wait
    stage.shim(
        "sbatch",
        f"""#!/bin/bash
d={stage.folder}/bin
if [[ -e {stage.folder}/counting && "$*" == *--parsable* && ! -e {stage.folder}/gate ]]; then
  echo >> "$d/calls"
  if [[ $(wc -l < "$d/calls") == {nth} ]]; then {act}; fi
fi
exec {real} "$@"
""",
    )


# ---- while it is watched or cancelled --------------------------------------------------------------------


def _while_working(stage: Stage, fault: ControllerFault, box: Sandbox, outcome: Outcome) -> None:
    (stage.folder / "work" / "trial.sh").write_text(TAKES_A_WHILE if fault.during == "watch" else WAITING)
    told = json.loads((stage.folder / "situation.json").read_text())
    told["throttle"] = 3 if fault.during == "watch" else 2  # of each array of three: some wait
    (stage.folder / "situation.json").write_text(json.dumps(told))
    child = stage.start(fault.during, program="working.py")
    assert child.stdout is not None
    said = []
    for line in child.stdout:
        said.append(line)
        if '"ready"' in line:
            break
    time.sleep(fault.delay)
    _apply(fault, box)
    (stage.folder / "disturbed").touch()
    healer = threading.Timer(fault.seconds, heal, [box])
    healer.start()
    rest, errors = child.communicate(timeout=PATIENCE * 2)
    healer.join()
    outcome.said = "".join(said) + rest + errors
    if child.returncode:
        outcome.wrong.append(f"it ended in {errors.strip().splitlines()[-1:]}")
        return
    _judge_work(stage, fault, outcome, lines_of(outcome.said))


def _judge_work(stage: Stage, fault: ControllerFault, outcome: Outcome, told: dict[str, object]) -> None:
    cancelled = {"watch": set(), "cancel-some": {0, 3}, "cancel-all": set(range(6))}[fault.during]
    counts = ran(stage)
    outcome.twice = [trial for trial in range(6) if counts[trial] > 1]
    outcome.lost = [trial for trial in range(6) if not counts[trial] and trial not in cancelled]
    expected = ["CANCELLED" if trial in cancelled else "COMPLETED" for trial in range(6)]
    if told.get("states") != expected:
        outcome.wrong.append(f"the states are {told.get('states')}")
    (record,) = stage.journal.runs()
    recorded = [final[0] for array in stage.journal.arrays(record.id) for final in array.final or [["open"]]]
    if recorded != expected:
        outcome.wrong.append(f"the journal has {recorded}")
    seen = told.get("seen", [])
    assert isinstance(seen, list)
    ends = [{states[trial] for states in seen} - {"PENDING", "RUNNING", "COMPLETING"} for trial in range(6)] if seen else []
    if any(end != {"COMPLETED"} for end in ends):
        outcome.wrong.append(f"what was seen: {seen}")

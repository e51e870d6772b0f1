"""Run as a program: watches a run, or cancels it, while its controller is disturbed.

``python working.py SITUATION.json watch|cancel-all|cancel-some``. It says what it sees in JSON lines on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from nexa_sdk import Cluster, Sweep
from nexa_sdk.errors import NexaError
from nexa_sdk.run import Run

SOME = [0, 3]  # one that runs, and one that waits for its turn


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def states(run: Run) -> list[str]:
    return [str(attempt.status.state) for attempt in run.last_known]


def settled(run: Run) -> list[str]:
    """Ask until somebody answers."""
    while problem := run.try_refresh(max_age=0.0):
        say(problem=problem)
        time.sleep(1)
    return states(run)


def watch(run: Run) -> None:
    seen = [settled(run)]
    say(ready=True)
    while not run.is_finished:
        if problem := run.try_refresh(max_age=0.0):
            say(problem=problem)
        if states(run) != seen[-1]:
            seen.append(states(run))
        time.sleep(0.3)
    say(seen=seen)


def cancel(run: Run, trials: list[int] | None) -> None:
    while settled(run).count("RUNNING") < 2:
        time.sleep(0.2)
    say(ready=True)
    Path("../gate-open").exists()
    while not Path("../disturbed").exists():
        time.sleep(0.02)
    wanted = set(trials) if trials is not None else set(range(len(run.last_known)))
    while True:
        try:
            if [n for n in wanted if settled(run)[n] not in ("CANCELLED", "COMPLETED")]:
                run.cancel(trials)
        except NexaError as error:
            say(refused=type(error).__name__, words=str(error))
            settled(run)
            time.sleep(1)
        else:
            break
    Path("../go-on").touch()  # those that are not cancelled may end


def main() -> None:
    situation = json.loads(Path(sys.argv[1]).read_text())
    sweep = Sweep(["sh", "trial.sh"], {"x": list(range(situation["trials"]))}, style="env")
    run = Cluster(situation["cluster"]).launch(sweep, time="0:10:00", throttle=situation["throttle"])
    say(run=run.id)
    if sys.argv[2] == "watch":
        watch(run)
    else:
        cancel(run, SOME if sys.argv[2] == "cancel-some" else None)
    run.wait(timeout=situation["patience"], check=False, progress=False)
    say(states=states(run))


if __name__ == "__main__":
    main()

"""What the keeper of the embedded cluster does when an array has ended: ``python -m nexa_sdk.keeping RUN TOKEN``.

The array's supervisor starts it, and waits for its end. It does with the ordinary objects what
``keeper.sbatch`` does on Slurm, and leaves the same marks.
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nexa_sdk import retrying
from nexa_sdk.errors import ClusterError
from nexa_sdk.retry import Cause
from nexa_sdk.states import State
from nexa_sdk.tasks import format_tasks, parse_tasks

if TYPE_CHECKING:
    from nexa_sdk.attempts import Attempt
    from nexa_sdk.retry import Step
    from nexa_sdk.run import Run

__all__ = ["keep", "main"]


def keep(run: Run, token: str) -> None:
    """Run the failed trials of an array again by the launch's rules, once."""
    marks = Path(run.folder) / "submitted"
    with open(marks / f"{token}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = marks / f"{token}.kept"
        if kept.exists():
            return
        run.refresh()
        keepers = run._attempts.keepers
        assert keepers is not None, f"nothing was ordered for {run.id}"
        rules = keepers.orders.rules
        steps: list[tuple[Attempt, Step]] = []
        if rules is not None:
            failed = _failed(run, token)
            steps = keepers.diagnosis.steps(failed, run._attempts.all, rules=rules, ladder=keepers.orders.ladder, job=run.job)
        lines = [f"{attempt.task}|{step.cause}: {step.words}" for attempt, step in steps if not step.is_again]
        for cause, _, attempts in retrying.groups(steps):
            words = next(step.words for attempt, step in steps if attempt is attempts[0])
            lines.append(
                f"{format_tasks([attempt.task for attempt in attempts])}|{cause}: {_again(run, token, cause, attempts, steps, words)}"
            )
        part = kept.with_name(f"{kept.name}.part")
        part.write_text("".join(f"{line}\n" for line in lines))
        part.replace(kept)


def _failed(run: Run, token: str) -> list[Attempt]:
    """Return the attempts of an array that did not complete, those left aside that were cancelled."""
    stop = Path(run.folder) / "submitted" / f"{token}.stop"
    stopped = parse_tasks(stop.read_text().strip().replace("\n", ",")) if stop.exists() else []
    of_array = {attempt.task: attempt for attempt in run._attempts.all if attempt.array.token == token}
    return [
        attempt
        for task, attempt in of_array.items()
        if attempt.status.state.is_failure and attempt.status.state is not State.CANCELLED and task not in stopped
    ]


def _again(run: Run, token: str, cause: str, attempts: Sequence[Attempt], steps: Sequence[tuple[Attempt, Step]], words: str) -> str:
    """Submit attempts again, and say what came of it."""
    options = next(dict(step.options) for attempt, step in steps if attempt is attempts[0])
    (array,) = run._actions.arrays_of(attempts)
    new = replace(array, token=f"{token}{Cause(cause).letter}", cause=cause, options=options)
    secrets = run._transport.read(f"{run.folder}/secrets/{token}")
    run._journal.adopt([new])
    if next(known for known in run._journal.arrays(run.id) if known.token == new.token).outcome == "intent":
        try:
            run._actions.submitter().submit([new], files={}, secrets=secrets or None)
        except ClusterError as error:
            return f"could not be run again ({words}): {error}"
    return f"run again: {words}"


def main() -> None:
    """Look after one array of one run."""
    from nexa_sdk.known import attach

    run_id, token = sys.argv[1:]
    keep(attach(run_id), token)


if __name__ == "__main__":
    main()

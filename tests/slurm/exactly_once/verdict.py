"""The verdict: how often each trial ran, as the program itself and as Slurm tell, and what the journal says of it."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stage import Stage

__all__ = ["Outcome", "judge", "ran", "table"]


@dataclass
class Outcome:
    """What came of a point."""

    kind: str
    lost: list[int] = field(default_factory=list)
    twice: list[int] = field(default_factory=list)
    found: int = 0  # arrays that had arrived when the process died
    sent: int = 0  # arrays that were sent again
    restarted: int = 0  # trials that Slurm itself started again in the same job, as after a requeue
    fenced: int = 0  # arrays that Slurm took twice: the claim kept the second from running
    was_killed: bool = True  # else the submission had ended before its point came, which tests nothing
    wrong: list[str] = field(default_factory=list)
    said: str = ""
    seconds: float = 0.0


def _lines(stage: Stage) -> list[list[str]]:
    path = stage.folder / "ran"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def ran(stage: Stage) -> Counter[int]:
    """Return how often each trial ran, by what the program itself wrote; a job that Slurm restarts is one.

    A controller that was killed may give a job's id away once more: so its name counts as well.
    """
    return Counter(int(trial) for trial, *_ in {(trial, job, token) for trial, _, job, token in _lines(stage)})


def judge(stage: Stage, outcome: Outcome, environment: Mapping[str, str], *, times: int | None = None) -> None:
    """Count how often each trial ran, as the program itself and as Slurm tell, and look into the journal."""
    times = times or (2 if stage.situation.what == "retry" else 1)
    counts = ran(stage)
    outcome.restarted = len(_lines(stage)) - counts.total()
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
    strangers = {job.partition("_")[0] for _, _, job, _ in _lines(stage)} - jobs
    if strangers:
        outcome.wrong.append(f"jobs {strangers} carried trials, and the journal has {jobs}")
    if "SLURM_CONF" in environment:
        listed = subprocess.run(
            ["squeue", "-h", "-t", "all", "-o", "%j %F"], env={**os.environ, **environment}, capture_output=True, text=True, check=True
        ).stdout
        named = {tuple(line.split()) for line in listed.splitlines() if line.startswith(records[0].id)}
        outcome.fenced = len(named) - len({token for token, _ in named})


def table(outcomes: Sequence[tuple[str, Outcome]]) -> list[str]:
    """Return the table: a line for each kind of fault."""
    head = f"{'fault':34} {'points':>6} {'missed':>6} {'found':>6} {'sent':>6} {'lost':>5} {'twice':>6} {'fenced':>7} {'restarted':>9} {'wrong':>6} {'seconds':>8}"
    rows = [head]
    for kind in dict.fromkeys(kind for kind, _ in outcomes):
        of = [outcome for other, outcome in outcomes if other == kind]
        numbers = [sum(len(o.lost) for o in of), sum(len(o.twice) for o in of), sum(o.fenced for o in of), sum(bool(o.wrong) for o in of)]
        rows.append(
            f"{kind:34} {len(of):6} {sum(not o.was_killed for o in of):6} {sum(o.found for o in of):6} {sum(o.sent for o in of):6} "
            f"{numbers[0]:5} {numbers[1]:6} {numbers[2]:7} {sum(o.restarted for o in of):9} {numbers[3]:6} {sum(o.seconds for o in of):8.0f}"
        )
    return rows

"""The verdict: how often each trial ran, as the program itself and as Slurm tell, and what the journal says of it."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from stage import Stage

__all__ = ["Outcome", "judge", "ran"]


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

    def numbers(self) -> dict[str, float]:
        """Return what the table sums up."""
        return {
            "missed": not self.was_killed,
            "found": self.found,
            "sent": self.sent,
            "lost": len(self.lost),
            "twice": len(self.twice),
            "fenced": self.fenced,
            "restarted": self.restarted,
            "wrong": bool(self.wrong),
            "seconds": self.seconds,
        }


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

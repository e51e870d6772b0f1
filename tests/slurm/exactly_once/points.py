"""The points at which a submitting process is killed: spread over its lines, over the time, and over the shell's steps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["STEPS", "KillPoint", "Situation", "kill_points"]


@dataclass(frozen=True)
class Situation:
    """What is submitted: at most three trials go into one array."""

    what: Literal["launch", "retry"]
    trials: int
    throttle: int | None

    @property
    def arrays(self) -> int:
        return -(-self.trials // 3)


@dataclass(frozen=True)
class KillPoint:
    """Where a process is killed, what dies with it, and what its user does then.

    `where` is the part of the lines or of the time that has passed, from 0 to 1; for a step it is the
    part of the arrays. `whole_session`: the submitting shell and its sbatch die as well.
    """

    number: int
    kind: Literal["line", "time", "step"]
    situation: Situation
    where: float
    whole_session: bool
    then: Literal["again", "resume", "twice"]
    step: str = ""

    def __str__(self) -> str:
        what = f"{self.situation.what}{self.situation.arrays}{'%' if self.situation.throttle else ''}"
        dies = "-and-shell" if self.whole_session else ""
        return f"{self.number:03}-{self.kind}{self.step and '-' + self.step.replace(' ', '-')}-{what}-{self.where:.2f}{dies}-{self.then}"


# The programs that the submitting shell starts, in this order; before and after each.
STEPS = [f"{when} {program}" for program in ("mkdir", "flock", "tar", "sbatch", "mv") for when in ("before", "after")]

SITUATIONS = [Situation("launch", 2, None), Situation("launch", 7, None), Situation("launch", 7, 1), Situation("retry", 4, None)]


def kill_points(count: int, seed: int, situations: Sequence[Situation] = SITUATIONS) -> list[KillPoint]:
    """Spread points over a submission; the same seed gives the same ones."""
    draw = random.Random(seed)
    kinds = [*["line"] * (count * 2 // 5), *["time"] * (count // 4)]
    steps = [(step, whole) for step in STEPS for whole in (False, True)]
    points: list[KillPoint] = []
    for number in range(count):
        situation = situations[number % len(situations)] if number < len(kinds) else draw.choice(situations)
        then = draw.choices(["again", "resume", "twice"], [5, 3, 2])[0]
        if number < len(kinds):
            # Stratified: each kind is spread evenly over the whole, and drawn within its stretch.
            n, of = number - kinds.index(kinds[number]), kinds.count(kinds[number])
            where, whole, step = (n + draw.random()) / of, draw.random() < 0.5, ""
        else:
            step, whole = steps[(number - len(kinds)) % len(steps)]
            where = draw.random()
            if "tar" in step and situation.what == "retry":  # it brings no files
                situation = SITUATIONS[1]
        points.append(KillPoint(number, kinds[number] if number < len(kinds) else "step", situation, where, whole, then, step))
    return points

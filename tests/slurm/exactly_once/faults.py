"""What is done to a controller, and while what is under way."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Literal

from points import Situation

__all__ = ["FAULTS", "ControllerFault", "controller_faults"]

During = Literal["before sbatch", "after sbatch", "retry", "watch", "cancel-all", "cancel-some"]

# Daemon, what is done to it, and for how many seconds: sbatch waits 10 for an answer.
FAULTS: list[tuple[str, str, float]] = [
    ("slurmctld", "frozen", 4),
    ("slurmctld", "frozen", 14),
    ("slurmctld", "frozen", 40),
    ("slurmctld", "killed", 1),
    ("slurmctld", "killed", 14),
    ("slurmctld", "restarted", 0),
    ("slurmctld", "down", 14),
    ("slurmdbd", "down", 14),
    ("munged", "down", 6),
]


@dataclass(frozen=True)
class ControllerFault:
    """A daemon, what is done to it, for how long, and while what is under way.

    `delay` is the seconds that pass between that moment and the fault; `nth` is the array that is being
    submitted then, counted from 1.
    """

    number: int
    daemon: str
    what: str
    seconds: float
    during: During
    situation: Situation
    delay: float
    nth: int

    @property
    def kind(self) -> str:
        return f"{self.daemon} {self.what}, {self.during}"

    def __str__(self) -> str:
        return f"{self.number:03}-{self.daemon}-{self.what}-{self.seconds:g}s-{self.during.replace(' ', '-')}-{self.nth}"


def controller_faults(seed: int) -> list[ControllerFault]:
    """Return every fault while each thing is under way, at moments drawn from the seed."""
    draw = random.Random(seed)
    moments: list[During] = ["before sbatch", "after sbatch", "retry", "watch", "cancel-all", "cancel-some"]
    made = []
    for number, ((daemon, what, seconds), during) in enumerate(itertools.product(FAULTS, moments)):
        if during == "retry":
            situation = Situation("retry", 2, None)
        elif during in ("before sbatch", "after sbatch"):
            situation = Situation("launch", draw.choice([2, 7]), draw.choice([None, 2]))
        else:
            situation = Situation("launch", 6, None)
        delay = draw.random() * 0.4
        if what == "killed" and situation.trials == 6:
            delay += 6  # what a killed controller has not saved, which it does within five seconds, is lost: see "after sbatch"
        made.append(ControllerFault(number, daemon, what, seconds, during, situation, delay, draw.randint(1, situation.arrays)))
    return made

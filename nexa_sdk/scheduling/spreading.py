"""How tasks are spread over machines that have no scheduler of their own: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nexa_sdk.records import ArrayRecord
from nexa_sdk.tasks import format_tasks, parse_tasks

__all__ = ["Room", "Share", "cut", "spread"]


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a machine has, and what of it nobody uses.

    `in_use` are the GPUs on which somebody computes; `ends_with_login` is whether it ends what a login leaves running.
    """

    cores: int
    gpus: int
    free_cores: int
    free_gpus: int
    in_use: int = 0
    ends_with_login: bool = False

    def slots(self, cores: int, gpus: int) -> int:
        """How many tasks that need so much run here at once, when nothing else does."""
        return _fitting(self.cores, self.gpus, cores, gpus)

    def free_slots(self, cores: int, gpus: int) -> int:
        """How many of them can start now."""
        return _fitting(self.free_cores, self.free_gpus, cores, gpus)

    def less(self, tasks: int, cores: int, gpus: int) -> Room:
        """Return what is left when so many of them have started, as far as they can."""
        begun = min(tasks, self.free_slots(cores, gpus))
        return replace(self, free_cores=self.free_cores - begun * cores, free_gpus=self.free_gpus - begun * gpus)

    def __str__(self) -> str:
        return f"{self.gpus} GPU{'' if self.gpus == 1 else 's'} and {self.cores} core{'' if self.cores == 1 else 's'}"


def _fitting(have_cores: int, have_gpus: int, cores: int, gpus: int) -> int:
    return max(0, min(have_cores // cores, have_gpus // gpus if gpus else have_cores))


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one machine gets of an array: how many tasks, and how many of them at once; None is as many as it can."""

    tasks: int
    throttle: int | None = None


def spread(tasks: int, rooms: Mapping[str, Room], *, cores: int, gpus: int, throttle: int | None = None) -> dict[str, Share]:
    """Spread tasks over machines: first where they can start at once, and the rest by what each runs at once.

    Parameters
    ----------
    tasks : int
    rooms : mapping of str to Room
        At least one has a slot.
    cores, gpus : int
        What a task needs.
    throttle : int, optional
        How many may run at once: the machines' throttles add up to it.

    Returns
    -------
    dict of str to Share
        The machines that get any, in their order.
    """
    slots = {name: room.slots(cores, gpus) for name, room in rooms.items()}
    now = {name: rooms[name].free_slots(cores, gpus) for name in rooms}
    if throttle is not None:  # a machine without a place of it would never start a task
        best = sorted(rooms, key=lambda name: (-now[name], -slots[name]))[:throttle]
        slots, now = ({name: some[name] for name in rooms if name in best} for some in (slots, now))
    at_once = min(tasks, sum(now.values()))
    given = _divide(at_once, now)
    later = _divide(tasks - at_once, slots)
    shares = {name: given[name] + later[name] for name in slots if given[name] + later[name]}
    if throttle is None:
        return {name: Share(tasks=count) for name, count in shares.items()}
    ones = dict.fromkeys(shares, 1)
    left = _divide(min(throttle, tasks) - len(shares), {name: count - 1 for name, count in shares.items()})
    return {name: Share(tasks=count, throttle=ones[name] + left[name]) for name, count in shares.items()}


def _divide(count: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Divide a number by weights, by the largest remainder; who comes first wins a tie."""
    total = sum(weights.values())
    if not total or count <= 0:
        return dict.fromkeys(weights, 0)
    shares = {name: count * weight // total for name, weight in weights.items()}
    by_rest = sorted(weights, key=lambda name: -(count * weights[name] % total))
    for name in by_rest[: count - sum(shares.values())]:
        shares[name] += 1
    return shares


def cut(array: ArrayRecord, counts: Sequence[int]) -> list[ArrayRecord]:
    """Cut an array into parts of so many tasks each; the first keeps its token, the others have none yet."""
    numbers, parts, begin = parse_tasks(array.tasks), list[ArrayRecord](), 0
    for count in counts:
        end = begin + count
        token = array.token if not parts else ""
        if array.trials is None:
            trials = min(end * array.pack, array.count) - begin * array.pack
            parts.append(replace(array, token=token, tasks=format_tasks(numbers[begin:end]), count=trials))
        else:  # its tasks are numbered anew: they find their trials by that
            some = array.trials[begin * array.pack : end * array.pack]
            parts.append(replace(array, token=token, tasks=format_tasks(range(count)), count=len(some), trials=some))
        begin = end
    return parts

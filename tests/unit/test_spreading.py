"""How tasks are spread over machines, and what an array is cut into for that."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexa_sdk.records import ArrayRecord
from nexa_sdk.scheduling.spreading import Room, Share, cut, spread


def room(gpus: int, free: int | None = None, cores: int = 64) -> Room:
    return Room(cores=cores, gpus=gpus, free_cores=cores, free_gpus=gpus if free is None else free)


def counts(shares: dict[str, Share]) -> dict[str, int]:
    return {name: share.tasks for name, share in shares.items()}


@pytest.mark.parametrize(
    ("tasks", "rooms", "expected"),
    [
        (4, {"a": room(4), "b": room(4)}, {"a": 2, "b": 2}),
        (1, {"a": room(4), "b": room(4)}, {"a": 1}),
        (4, {"a": room(8, free=1), "b": room(4)}, {"a": 1, "b": 3}),  # to where they start at once
        (12, {"a": room(8, free=0), "b": room(4)}, {"a": 5, "b": 7}),  # and the rest by what each runs at once
        (6, {"a": room(2, free=0), "b": room(1, free=0)}, {"a": 4, "b": 2}),
        (5, {"a": room(0), "b": room(4)}, {"b": 5}),
    ],
)
def test_tasks_go_to_where_there_is_room(tasks: int, rooms: dict[str, Room], expected: dict[str, int]) -> None:
    assert counts(spread(tasks, rooms, cores=1, gpus=1)) == expected


def test_cores_count_too() -> None:
    assert room(8, cores=16).slots(cores=8, gpus=1) == 2
    assert room(8, cores=16).slots(cores=8, gpus=0) == 2
    assert room(8, cores=16).less(1, cores=8, gpus=1).free_slots(cores=8, gpus=1) == 1


def test_a_throttle_of_one_takes_one_machine_alone() -> None:
    assert spread(6, {"a": room(1), "b": room(4)}, cores=1, gpus=1, throttle=1) == {"b": Share(tasks=6, throttle=1)}


@settings(deadline=None)
@given(
    tasks=st.integers(1, 500),
    throttle=st.none() | st.integers(1, 40),
    rooms=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6).filter(
        lambda some: any(gpus for gpus, _ in some)
    ),
)
def test_every_task_goes_somewhere_and_throttles_add_up(tasks: int, throttle: int | None, rooms: list[tuple[int, int]]) -> None:
    named = {f"h{n}": room(gpus, free=min(gpus, free)) for n, (gpus, free) in enumerate(rooms)}
    shares = spread(tasks, named, cores=1, gpus=1, throttle=throttle)
    assert sum(counts(shares).values()) == tasks
    assert all(share.tasks > 0 and named[name].gpus for name, share in shares.items())
    if throttle is None:
        assert all(share.throttle is None for share in shares.values())
    else:
        assert sum(share.throttle or 0 for share in shares.values()) == min(throttle, tasks)
        assert all(0 < (share.throttle or 0) <= share.tasks for share in shares.values())


@settings(deadline=None)
@given(data=st.data(), pack=st.integers(1, 4), is_again=st.booleans())
def test_parts_have_the_trials_of_the_whole_where_the_script_looks_for_them(data: st.DataObject, pack: int, is_again: bool) -> None:
    trials = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=20, unique=True).map(sorted))
    if is_again and pack == 1:
        array = record(tasks=",".join(map(str, trials)), count=len(trials))
    else:
        tasks = -(-len(trials) // pack)
        array = record(tasks=f"0-{tasks - 1}", count=len(trials), pack=pack, trials=trials if is_again else None)
    shares, left = [], array.size
    while left:
        shares.append(data.draw(st.integers(1, left)))
        left -= shares[-1]
    parts = cut(array, shares)
    assert [trial for part in parts for _, _, trial in part.places()] == [trial for _, _, trial in array.places()]
    assert [part.size for part in parts] == shares
    assert sum(part.count for part in parts) == array.count
    assert [part.token for part in parts] == ["run-0", *[""] * (len(parts) - 1)]
    for part in parts:
        if part.trials is None:  # a task finds its trials by its number alone
            assert {(task, slot, trial) for task, slot, trial in part.places()} <= set(array.places())


def record(*, tasks: str, count: int, pack: int = 1, trials: list[int] | None = None) -> ArrayRecord:
    return ArrayRecord(token="run-0", run="run", script="job-0.sbatch", first=7, tasks=tasks, at=0, count=count, pack=pack, trials=trials)

"""Sandboxes for the faults, the points that are played on them side by side, and the table of what came of them."""

from __future__ import annotations

import queue
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from disturbing import disturb
from faults import ControllerFault
from killing import play, undisturbed
from points import KillPoint, Situation
from tables import note_row
from verdict import Outcome

from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec, install_hint, missing_programs

Point = KillPoint | ControllerFault

SIDE_BY_SIDE = 5  # points that are played on a sandbox at once: they wait most of the time


def _started(count: int) -> Iterator[list[Sandbox]]:
    if missing_programs():
        pytest.skip(f"no Slurm here; get it by: {install_hint()}")
    folders = [Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp")) for _ in range(count)]
    boxes = [Sandbox(folder / "box") for folder in folders]
    try:
        for box in boxes:
            box.start(SandboxSpec(nodes=2, gpus_per_node=0, max_array_size=3))  # so that few trials make several arrays
        yield boxes
    finally:
        for box, folder in zip(boxes, folders, strict=True):
            if box.status():
                box.destroy()
            shutil.rmtree(folder, ignore_errors=True)


def _chosen(session: pytest.Session, kind: type) -> list[Any]:
    """Return the points of a kind that this session tests."""
    items = [item for item in session.items if isinstance(item, pytest.Function) and not item.get_closest_marker("skip")]
    points = [item.callspec.params.get("point") for item in items if hasattr(item, "callspec")]
    return [point for point in points if isinstance(point, kind)]


@pytest.fixture(scope="session")
def killed(request: pytest.FixtureRequest) -> Iterator[dict[KillPoint, Future[Outcome]]]:
    """Play all chosen points of killed submissions, each once."""
    points: list[KillPoint] = _chosen(request.session, KillPoint)
    count = 2 if request.config.getoption("--full") else 1
    for boxes in _started(count):
        with ThreadPoolExecutor(SIDE_BY_SIDE * count) as pool:
            situations = list(dict.fromkeys(point.situation for point in points))
            sizes: dict[Situation, Future[tuple[int, float]]] = {
                situation: pool.submit(undisturbed, situation, boxes[0].environment) for situation in situations
            }
            yield {point: pool.submit(_play, point, boxes[n % count], sizes[point.situation]) for n, point in enumerate(points)}


def _play(point: KillPoint, box: Sandbox, size: Future[tuple[int, float]]) -> Outcome:
    return play(point, box.environment, size.result())


@pytest.fixture(scope="session")
def disturbed(request: pytest.FixtureRequest) -> Iterator[dict[ControllerFault, Future[Outcome]]]:
    """Play all chosen faults of controllers, each alone on its sandbox."""
    count = 3 if request.config.getoption("--full") else 2
    if not request.config.getoption("--full") and _chosen(request.session, KillPoint):
        request.getfixturevalue("killed")  # a sample is played all at once: it waits most of the time
    free: queue.Queue[Sandbox] = queue.Queue()

    def on_a_free_box(fault: ControllerFault) -> Outcome:
        box = free.get()
        try:
            return disturb(fault, box)
        finally:
            free.put(box)

    for boxes in _started(count):
        for box in boxes:
            free.put(box)
        with ThreadPoolExecutor(count) as pool:
            yield {fault: pool.submit(on_a_free_box, fault) for fault in _chosen(request.session, ControllerFault)}


@pytest.fixture(scope="module")
def own_box() -> Iterator[Sandbox]:
    """Return a sandbox that one module has for itself."""
    for (box,) in _started(1):
        yield box


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[Outcome], None]:
    """Note an outcome for the table."""
    return lambda outcome: note_row(request.node, "exactly once", outcome.kind, outcome.numbers())


@pytest.fixture
def judged(request: pytest.FixtureRequest, note: Callable[[Outcome], None]) -> Callable[[Point, Future[Outcome]], Outcome]:
    """Wait for a point's outcome, note it for the table, and see that nothing was lost, and nothing ran twice."""

    def judge(point: Point, future: Future[Outcome]) -> Outcome:
        outcome = future.result()
        note(outcome)
        again = f"play it alone: pytest --full {request.node.path} --seed {request.config.getoption('--seed')} -k {point.number:03}"
        assert [outcome.lost, outcome.twice, outcome.wrong] == [[], [], []], f"{point}: {outcome}\n{outcome.said}\n{again}"
        return outcome

    return judge

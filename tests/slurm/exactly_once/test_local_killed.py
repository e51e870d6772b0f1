"""The same on the embedded cluster: its submitting process is killed, and every trial runs exactly once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from killing import play, undisturbed
from points import Situation, kill_points
from verdict import Outcome

SITUATIONS = [Situation("launch", 5, None), Situation("retry", 3, None)]


def test_a_dozen_points_of_the_embedded_cluster(request, note: Callable[[Outcome], None]) -> None:
    seed = request.config.getoption("--seed")
    points = [point for point in kill_points(40, seed, SITUATIONS) if point.kind != "step"][::2]
    sizes = {situation: undisturbed(situation, {}, cluster="local") for situation in SITUATIONS}
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda point: play(point, {}, sizes[point.situation], cluster="local"), points))
    assert sum(outcome.was_killed for outcome in outcomes) > len(points) // 2
    for point, outcome in zip(points, outcomes, strict=True):
        outcome.kind = f"embedded, {outcome.kind}"
        note(outcome)
        assert [outcome.lost, outcome.twice, outcome.wrong] == [[], [], []], f"seed {seed}, {point}: {outcome}"

"""What is found out, from what keepers left, about those that nobody sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace

import pytest

from nexa_sdk import Job, Retry, State
from nexa_sdk.keepers import Keepers, Orders
from nexa_sdk.records import ArrayRecord
from nexa_sdk.retry import Ladder
from nexa_sdk.scheduling.base import TaskStatus

FAILED = {0: TaskStatus(State.FAILED)}


def array(token: str) -> ArrayRecord:
    return ArrayRecord(token=token, run="r", script="job-0.sbatch", first=0, tasks="0", at=0.0, count=1, outcome="submitted", job_id="7")


@pytest.fixture
def cluster() -> SimpleNamespace:
    """What a scheduler and the run's folder tell: which keepers live, and the marks."""
    found = SimpleNamespace(living=set(), marks={})
    found.living_keepers = lambda _, tokens: found.living & set(tokens)

    def read_many(folder: str, names: Iterable[str]) -> Mapping[str, bytes]:
        return {name: found.marks[name] for name in names if name in found.marks}

    found.read_many = read_many
    return found


@pytest.fixture
def keepers(cluster: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Keepers:
    monkeypatch.setattr("nexa_sdk.keepers.ASKED_AGAIN", 0.0)
    orders = Orders(rules=Retry(), ladder=Ladder(), is_rolling=False, arrays=[("job-0.sbatch", 0, 1)])
    return Keepers("r", "/runs/r", orders, scheduler=cluster, transport=cluster, journal=SimpleNamespace(), job=Job())


def look(keepers: Keepers, *tokens: str) -> Mapping[str, str]:
    arrays: Sequence[ArrayRecord] = [array(token) for token in tokens]
    keepers.adopt(arrays, dict.fromkeys(tokens, FAILED))
    return keepers.lost


def test_an_array_whose_keeper_is_being_sent_is_not_lost(keepers: Keepers, cluster: SimpleNamespace) -> None:
    """A keeper submits what runs again, and then its keeper: what runs again may have ended between the two."""
    cluster.living = {"r-0"}
    assert look(keepers, "r-0", "r-0a") == {}
    cluster.living, cluster.marks = {"r-0a"}, {"r-0.kept": b"0|TIMEOUT: run again as job 8\n", "r-0a.keeper": b"9"}
    assert look(keepers, "r-0", "r-0a") == {}


def test_an_array_that_nobody_is_about_to_send_a_keeper_for_has_none(keepers: Keepers) -> None:
    assert look(keepers, "r-0") == {"r-0": "its launch was cut short before it had a keeper"}


def test_a_keeper_that_is_noted_and_unseen_is_waited_for(
    keepers: Keepers, cluster: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.marks = {"r-0.keeper": b"9"}
    assert look(keepers, "r-0") == {}
    monkeypatch.setattr("nexa_sdk.keepers.GONE", 0.0)
    assert look(keepers, "r-0") == {"r-0": "its keeper is gone"}

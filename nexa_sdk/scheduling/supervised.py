"""What supervisors wrote down of their arrays, read once and then onwards: from this machine or from others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nexa_sdk.scheduling.base import ArrayHandle, Submission, TaskStatus, Usage
from nexa_sdk.states import State
from nexa_sdk.tasks import parse_tasks

__all__ = ["Supervised", "request_of"]


class Supervised:
    """One array, as far as its supervisor's words were read.

    Attributes
    ----------
    folder : str
        The folder of its run.
    is_known : bool
        Whether its record was found.
    tasks : dict of int to TaskStatus
    """

    def __init__(self, array: ArrayHandle) -> None:
        self.folder = array.folder
        self.is_known = False
        self.tasks: dict[int, TaskStatus] = {}
        self._job_id, self._token = array.job_id, array.name
        self._where: dict[str, str] = {}
        self._node = ""
        self._cpus = self._gpus = 0
        self._offset = 0

    @property
    def is_over(self) -> bool:
        """Whether all its tasks have ended."""
        return self.is_known and all(status.state.is_terminal for status in self.tasks.values())

    @property
    def question(self) -> dict[str, Any]:
        """What :func:`nexa_sdk.scheduling.machine.poll` is asked."""
        about = {"folder": self.folder, "job_id": self._job_id, "token": self._token, "offset": self._offset}
        return {**about, **self._where}

    def hear(self, answer: Mapping[str, Any]) -> None:
        """Take in what it answers."""
        if "base" in answer:
            self._where = {"base": answer["base"], "host": answer["host"], "token": answer["token"]}
            self._node, self._cpus, self._gpus = answer["node"], answer["cpus"], answer["gpus"]
            self.tasks = {task: TaskStatus(State.PENDING) for task in parse_tasks(answer["tasks"])}
            self.is_known = True
        for line in answer["events"].split("\n"):
            try:
                event = json.loads(line)
            except ValueError:  # a supervisor died within it
                continue
            self._take(event)
        self._offset = answer["offset"]

    def usage(self, *, user: str, now: float) -> list[Usage]:
        """Say what each task took, what runs until now."""
        found = []
        for task, status in self.tasks.items():
            if status.start is None or status.state is State.PENDING:
                continue
            job, end = f"{self._job_id}_{task}", status.end if status.end is not None else now
            found.append(
                Usage(
                    job=job,
                    raw=job,
                    name=self._where.get("token", self._token),
                    user=user,
                    account="",
                    partition="",
                    state=status.state,
                    start=status.start,
                    end=max(status.start, end),
                    is_over=status.end is not None,
                    elapsed=max(0.0, end - status.start),
                    gpus=self._gpus,
                    cpus=self._cpus,
                    nodes=1,
                    gpu_type="",
                    is_skewed=end < status.start,
                )
            )
        return found

    def _take(self, event: Mapping[str, Any]) -> None:
        before, state = self.tasks[event["task"]], State(event["state"])
        if state is State.RUNNING:
            self.tasks[event["task"]] = TaskStatus(state, start=event["time"], node=self._node)
        else:
            code = event.get("exit") if state in (State.COMPLETED, State.FAILED) else None
            self.tasks[event["task"]] = TaskStatus(state, code, before.start, event["time"], before.node, event.get("reason", ""))


def request_of(
    submission: Submission,
    *,
    home: str,
    env: Mapping[str, str],
    prefix: str = "",
    node: str = "",
    keeper: Mapping[str, Any] | None = None,
    yields: bool = False,
) -> dict[str, Any]:
    """Write a submission as :func:`nexa_sdk.scheduling.machine.submit` takes it, without its files."""
    job = submission.job
    return {
        "folder": submission.folder,
        "token": submission.token,
        "send": submission.send,
        "script": submission.script,
        "args": list(submission.args),
        "tasks": submission.tasks,
        "numbers": parse_tasks(submission.tasks),
        "throttle": job.throttle,
        "limit": job.limit.total_seconds() if job.limit else None,
        "cpus": job.cpu_count,
        "gpus": job.gpu_count,
        "after": [
            {"kind": before.kind, "job_id": before.job_id, "folder": before.folder, "tasks": list(before.tasks)}
            for before in submission.dependencies
        ],
        "code": submission.code,
        "env": dict(env),
        "home": home,
        "prefix": prefix,
        "node": node,
        "keeper": keeper,
        "yields": yields,
    }

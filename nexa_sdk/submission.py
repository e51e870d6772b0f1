"""Submit the arrays of a run, each exactly once, and take along what is secret."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nexa_sdk.errors import ClusterError, JobError, SubmissionUnknown
from nexa_sdk.scheduling.base import ArrayHandle, Scheduler, Submission

if TYPE_CHECKING:
    from nexa_sdk.job import Job
    from nexa_sdk.journal import ArrayRecord, Journal

__all__ = ["read_secrets", "submit_arrays"]


def submit_arrays(
    scheduler: Scheduler,
    journal: Journal,
    folder: str,
    job: Job,
    arrays: Sequence[ArrayRecord],
    *,
    files: Mapping[str, Mapping[str, bytes]],
    secrets: bytes | None,
    is_retry: bool = False,
) -> None:
    """Submit arrays that the journal has as intended; what came of each is written down.

    When one is refused, those before it are cancelled: a run is submitted whole or not at all.
    """
    done: list[ArrayRecord] = []
    for array in arrays:
        secret_file = {f"secrets/{array.token}": secrets} if secrets is not None else {}
        submission = Submission(
            token=array.token,
            folder=folder,
            script=array.script,
            tasks=array.tasks,
            job=job,
            files={**files.get(array.token, {}), **secret_file},
            is_retry=is_retry,
            after=done[-1].job_id if job.throttle and done else None,
        )
        try:
            job_id = _uninterrupted(partial(scheduler.submit, submission))
        except SubmissionUnknown as error:
            journal.settle(array.token, "unknown", words=str(error))
            raise
        except ClusterError as error:
            for refused in arrays[len(done) :]:
                journal.settle(refused.token, "rejected", words=str(error))
            for earlier in done:
                journal.cancelled(earlier.token, earlier.tasks)
                scheduler.cancel(ArrayHandle(str(earlier.job_id), folder), None)
            raise
        journal.settle(array.token, "submitted", job_id=job_id)
        done.append(replace(array, job_id=job_id))


def _uninterrupted(submit: Callable[[], str]) -> str:
    """Let a submission come to its end: Ctrl-C is heard after it, never half way."""
    with ThreadPoolExecutor(1, thread_name_prefix="nexa-submit") as pool:
        answer = pool.submit(submit)
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                result = answer.result()
                break
            except KeyboardInterrupt as interrupt:
                interrupted = interrupt
    if interrupted is not None:
        print("Interrupted, after the submission had come to its end.")
        raise interrupted
    return result


def read_secrets(job: Job) -> bytes | None:
    """Take a job's secrets from the environment or ``.env``, as lines of bash.

    Raises
    ------
    JobError
        For one that is in neither; its name is told, never a value.
    """
    if not job.secrets:
        return None
    from nexa_sdk.scheduling.slurm.bash import quote

    stored = _read_dotenv(Path(job.workdir or ".") / ".env") | _read_dotenv(Path(".env"))
    lines = []
    for name in job.secrets:
        value = os.environ.get(name, stored.get(name))
        if not value:
            raise JobError(f"secrets: {name} is neither in the environment nor in .env; set it there, or leave it out")
        lines.append(f"export {name}={quote(value)}\n")
    return "".join(lines).encode()


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    return {name: value for name, value in dotenv_values(path).items() if value is not None}

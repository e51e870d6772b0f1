"""Submit the arrays of a run, each exactly once, and take along what is secret."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nexa_sdk.errors import ClusterError, JobError, SubmissionUnknown
from nexa_sdk.scheduling.base import ArrayHandle, Scheduler, Submission

if TYPE_CHECKING:
    from nexa_sdk.job import Job
    from nexa_sdk.journal import ArrayRecord, Journal
    from nexa_sdk.transports.base import Transport

__all__ = ["read_secrets", "submit_arrays"]


def submit_arrays(
    scheduler: Scheduler,
    transport: Transport,
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
    Ctrl-C is heard afterwards, never half way.
    """
    done: list[ArrayRecord] = []

    def submit_all() -> None:
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
                after=done[-1].job_id if job.throttle and done and "?" not in (job.dependency or "") else None,
            )
            job_id = scheduler.submit(submission)
            journal.settle(array.token, "submitted", job_id=job_id)
            done.append(replace(array, job_id=job_id))

    def submit_whole() -> None:
        try:
            submit_all()
        except SubmissionUnknown as error:
            journal.settle(arrays[len(done)].token, "unknown", words=str(error))
            raise
        except ClusterError as error:
            for refused in arrays[len(done) :]:
                journal.settle(refused.token, "rejected", words=str(error))
            transport.remove([f"{folder}/secrets/{refused.token}" for refused in arrays[len(done) :]])
            for earlier in done:
                journal.cancelled(earlier.token, earlier.tasks)
                scheduler.cancel(ArrayHandle(str(earlier.job_id), folder, earlier.size), None)
            raise

    _uninterrupted(submit_whole)


def _uninterrupted(work: Callable[[], None]) -> None:
    """Let work come to its end: Ctrl-C is heard after it."""
    with ThreadPoolExecutor(1, thread_name_prefix="nexa-submit") as pool:
        future = pool.submit(work)
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                future.result()
                break
            except KeyboardInterrupt as interrupt:
                print("Interrupted: the submission comes to its end first …")
                interrupted = interrupt
    if interrupted is not None:
        raise interrupted


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

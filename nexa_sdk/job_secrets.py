"""The values of a job's secrets, taken at launch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nexa_sdk.errors import JobError

if TYPE_CHECKING:
    from nexa_sdk.job import Job

__all__ = ["read_secrets"]


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

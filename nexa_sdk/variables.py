"""Environment variables that a user may set for trials, and those that nobody may."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nexa_sdk.errors import SweepError
from nexa_sdk.values import check_text

__all__ = ["check_env", "check_labels", "is_reserved"]


# Slurm and the run set these themselves; a script that set them would mislead srun and sbatch.
def is_reserved(name: str) -> bool:
    """Whether an environment variable belongs to the scheduler or to the run."""
    return name.startswith(("SLURM_", "SBATCH_", "NEXA_"))


def check_env(what: str, env: Mapping[str, str]) -> None:
    """Check environment variables of trials."""
    for key, value in env.items():
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
            raise SweepError(f"{what}: {key!r} is no name of an environment variable")
        if is_reserved(key):
            raise SweepError(f"{what}: {key!r} belongs to the scheduler or to the run; choose another name")
        if re.search(r"(API_?KEY|_TOKEN|SECRET|PASSWORD|SECRET_ACCESS_KEY)$", key, re.IGNORECASE):
            raise SweepError(
                f"{what}: {key!r} looks like a secret, and would stand in the script for others to "
                f"read; use Job(secrets=[{key!r}]), which takes it from the environment or .env"
            )
        if not isinstance(value, str):
            raise SweepError(f"{what}: the value of {key!r} is {value!r}; give text")
        check_text(f"{what} {key!r}", value)


def check_labels(tags: Sequence[str], group: str | None, project: str | None) -> None:
    """Check what reaches Weights & Biases; a comma would make two tags of one."""
    for what, label in (*(("tag", tag) for tag in tags), ("wandb_group", group), ("wandb_project", project)):
        if what == "tag" and (not isinstance(label, str) or not label or "," in label):
            raise SweepError(f"tags: {label!r}: give text without a comma, a tag each")
        if label is not None and not isinstance(label, str):
            raise SweepError(f"{what}={label!r}: give text")
        check_text(what, label or "")

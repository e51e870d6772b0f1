"""Environments: the small clean one that trials start from, and the one that questions are asked in."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["for_questions", "for_trials"]

# What a login would set, and what the module systems (Lmod, Environment Modules) live on.
_KEPT = re.compile(
    r"HOME|USER|LOGNAME|SHELL|PATH|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|XDG_RUNTIME_DIR"
    r"|MODULEPATH|MODULESHOME|MODULES_\w+|LMOD_\w+|LD_LIBRARY_PATH|BASH_FUNC_(module|ml)(%%|\(\))"
)


def for_trials(environment: Mapping[str, str]) -> dict[str, str]:
    """Keep what trials start from: nothing of the notebook's own, no secret, no SLURM_*.

    SLURM_CONF stays: it says where the cluster is, not what a job is.
    """
    kept = {name: value for name, value in environment.items() if _KEPT.fullmatch(name)}
    if "SLURM_CONF" in environment:
        kept["SLURM_CONF"] = environment["SLURM_CONF"]
    return kept


def for_questions(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for squeue, sacct, scancel and sinfo: their own settings left out, and all that is secret."""
    # Times as seconds since the epoch; collapsed task lists whole, not cut at 64 characters.
    return {**for_trials(environment), "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "LC_ALL": "C.UTF-8"}

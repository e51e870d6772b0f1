"""Slurm: the script of a job array, and the commands that submit and watch it.

The names of the specification are here: :func:`prepare_slurm_batch`, :class:`SlurmJob` (which is
:class:`nexa_sdk.Job`), :class:`SweepDefinition`, :class:`SlurmBatchArtifacts`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexa_sdk.definition import SweepDefinition
    from nexa_sdk.job import Job as SlurmJob
    from nexa_sdk.scheduling.slurm.batch import SlurmBatchArtifacts, prepare_slurm_batch

__all__ = ["SlurmBatchArtifacts", "SlurmJob", "SweepDefinition", "prepare_slurm_batch"]

_HOMES = {
    "SlurmBatchArtifacts": ("nexa_sdk.scheduling.slurm.batch", "SlurmBatchArtifacts"),
    "SlurmJob": ("nexa_sdk.job", "Job"),
    "SweepDefinition": ("nexa_sdk.definition", "SweepDefinition"),
    "prepare_slurm_batch": ("nexa_sdk.scheduling.slurm.batch", "prepare_slurm_batch"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nexa_sdk.scheduling.slurm' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)

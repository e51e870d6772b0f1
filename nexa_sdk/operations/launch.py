"""Launch from a configuration file: the specification's functions, thin over the objects."""

from __future__ import annotations

import os

from nexa_sdk.scheduling.slurm.batch import SlurmBatchArtifacts

__all__ = ["launch_slurm_sweep"]


def launch_slurm_sweep(
    config: str | os.PathLike[str], submit: bool = False, *, cluster: str | None = None, again: bool = False
) -> SlurmBatchArtifacts:
    """Make a Slurm job array of a sweep's YAML definition, and submit it if asked.

    Parameters
    ----------
    config : path
        A definition; see :mod:`nexa_sdk.definition`.
    submit : bool
    cluster : str, optional
        What ``Cluster(…)`` takes; unless given, the definition's, else ``"slurm"``.
    again : bool
        Run anew what is launched or completed already.

    Raises
    ------
    DefinitionError
    SubmissionRejected, SubmissionUnknown
    """
    from nexa_sdk.cluster import Cluster
    from nexa_sdk.definition import load

    definition = load(config)
    plan = Cluster(cluster or definition.cluster or "slurm").plan(definition.sweep, definition.job)
    return SlurmBatchArtifacts(plan, plan.submit(again=again) if submit else None)

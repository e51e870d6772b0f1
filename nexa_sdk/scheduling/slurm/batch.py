"""The specification's way to a script: a definition and a job in, artifacts out, over the same plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from nexa_sdk.sweep import Sweep

if TYPE_CHECKING:
    from nexa_sdk.definition import Launcher, SweepDefinition
    from nexa_sdk.estimate import Estimate
    from nexa_sdk.job import Job
    from nexa_sdk.plan import Plan
    from nexa_sdk.run import Run

__all__ = ["SlurmBatchArtifacts", "prepare_slurm_batch"]


@dataclass(frozen=True)
class SlurmBatchArtifacts:
    """What a sweep becomes on Slurm.

    Attributes
    ----------
    plan : Plan
        What was planned, and is submitted unchanged.
    run : Run or None
        The run, where it was submitted.
    """

    plan: Plan
    run: Run | None = field(default=None)

    @property
    def script(self) -> str:
        """The script of the first array."""
        return self.plan.script

    @property
    def script_path(self) -> Path:
        """Where the script lies once it is submitted; until then nothing is written."""
        return Path(self.folder) / "job-0.sbatch"

    @property
    def spec_path(self) -> Path:
        """Where everything needed to run this again lies once it is submitted."""
        return Path(self.folder) / "plan.json"

    @property
    def folder(self) -> str:
        """The folder of the run: that of a run that was found to be the same, else the plan's."""
        return self.run.folder if self.run is not None else self.plan.folder

    @property
    def job_count(self) -> int:
        """How many trials there are."""
        return len(self.plan.sweep)

    @property
    def commands(self) -> Sequence[list[str]]:
        """The words that each trial runs, worked out when asked for."""
        return _Commands(self.plan.sweep)

    @property
    def cost(self) -> Estimate:
        """What it takes at most."""
        return self.plan.cost()

    def save(self, path: Path | str) -> Path:
        """Write the first array's script to a file, to read or to submit by hand."""
        target = Path(path)
        target.write_text(self.script, encoding="utf-8")
        return target

    def __repr__(self) -> str:
        return f"<SlurmBatchArtifacts of {self.plan!r}{f', submitted as {self.run.id}' if self.run is not None else ''}>"


class _Commands(Sequence[list[str]]):
    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def __len__(self) -> int:
        return len(self._sweep)

    @overload
    def __getitem__(self, i: int) -> list[str]: ...
    @overload
    def __getitem__(self, i: slice) -> list[list[str]]: ...
    def __getitem__(self, i: int | slice) -> list[str] | list[list[str]]:
        if isinstance(i, slice):
            return [self._sweep.argv(k) for k in range(len(self))[i]]
        return self._sweep.argv(i)

    def __iter__(self) -> Iterator[list[str]]:
        return (self._sweep.argv(i) for i in range(len(self)))


def prepare_slurm_batch(
    sweep: Sweep | SweepDefinition,
    job: Job | None = None,
    *,
    launcher: Launcher | None = None,
    cluster: str = "slurm",
    submit: bool = False,
    again: bool = False,
    **resources: Any,
) -> SlurmBatchArtifacts:
    """Make a self-contained job array of a sweep and a job's resources, and submit it if asked.

    Rendering touches nothing on disk.

    Parameters
    ----------
    sweep : Sweep or SweepDefinition
    job : SlurmJob, optional
    launcher : Launcher, optional
        How a definition's program is started.
    cluster : str
        What ``Cluster(…)`` takes.
    submit, again : bool
        As :meth:`nexa_sdk.plan.Plan.submit` has it.
    **resources
        Fields of the job.
    """
    from nexa_sdk.cluster import Cluster  # upstairs: the objects do the work
    from nexa_sdk.job import Job

    chosen = Job(**{**(job.given() if job is not None else {}), **resources})
    if not isinstance(sweep, Sweep):
        from nexa_sdk.definition import build

        sweep = build(sweep, launcher, chosen)
    plan = Cluster(cluster).plan(sweep, chosen)
    return SlurmBatchArtifacts(plan, plan.submit(again=again) if submit else None)

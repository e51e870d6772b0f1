"""CostReport: what a run will take at most, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.job import Job

__all__ = ["CostReport"]


@dataclass(frozen=True)
class CostReport:
    """What trials take at most, if each runs to its walltime.

    Attributes
    ----------
    trials : int
    gpu_hours, cpu_hours : Decimal or None
        Over all trials; None where there is no walltime to bound them.
    gpu_type : str or None
    total : Decimal or None
        Money; None where no price is known. A price is never made up.
    currency : str or None
    """

    trials: int
    gpu_hours: Decimal | None
    cpu_hours: Decimal | None
    gpu_type: str | None = None
    total: Decimal | None = None
    currency: str | None = None

    @classmethod
    def upper_bound(cls, job: Job, *, trials: int) -> CostReport:
        """Bound what `trials` trials of a job take: tasks × GPUs × walltime. A task carries one trial, or several when packed."""
        if job.limit is None:
            bound = None
            return cls(trials, Decimal(0) if not job.gpu_count else None, bound, job.gpu_type)
        hours = Decimal(job.tasks_of(trials)) * Decimal(int(job.limit.total_seconds())) / 3600
        return cls(trials, hours * job.gpu_count, hours * job.cpu_count, job.gpu_type)

    def to_frame(self) -> pd.DataFrame:
        """Return it as a DataFrame of one row."""
        import pandas as pd

        row = {
            "trials": self.trials,
            "gpu_type": self.gpu_type or "",
            "gpu_hours": _number(self.gpu_hours),
            "cpu_hours": _number(self.cpu_hours),
        }
        return pd.DataFrame([{**row, "total": _number(self.total), "currency": self.currency or "unknown"}])

    def __str__(self) -> str:
        money = "price unknown" if self.total is None else f"{self.total:,.2f} {self.currency}"
        if self.cpu_hours is None:
            return f"no walltime bounds the {'GPU-hours' if self.gpu_hours is None else 'CPU-hours'}, {money}"
        gpus = f"{self.gpu_hours:,.2f} GPU-hours, " if self.gpu_hours else ""
        return f"at most {gpus}{self.cpu_hours:,.2f} CPU-hours, {money}"

    def __repr__(self) -> str:
        return f"<CostReport of {self.trials:,} trials: {self}>"

    def _repr_html_(self) -> str:
        from nexa_sdk import display

        cells = [
            self.trials,
            self.gpu_type or "",
            self.gpu_hours,
            self.cpu_hours,
            "unknown" if self.total is None else f"{self.total} {self.currency}",
        ]
        return display.titled_table(
            "Cost, at most",
            ["trials", "GPU type", "GPU-hours", "CPU-hours", "price"],
            [["unbounded" if cell is None else cell for cell in cells]],
        )


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)

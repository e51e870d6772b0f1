"""What a budget costs a task: ``python tests/bench/bench_budget.py``.

The same script with a budget and without one, run by bash as a scheduler runs it, in a run of which so
many tasks have ended already; alternately, in one process, and the medians compared. And what a launch
waits for when so many runs are in the book and the ledger.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from nexa_sdk import Job, Sweep
from nexa_sdk.budget import limit_line
from nexa_sdk.budgeting import Budgeting
from nexa_sdk.journal import Journal
from nexa_sdk.monitoring.budget_book import EVERYTHING, MONTH, BudgetBook, Grant
from nexa_sdk.monitoring.ledger import Ledger
from nexa_sdk.scheduling.slurm.script import ArrayScript, render

ROUNDS = 15


def prepare(folder: Path, *, ended: int, has_budget: bool) -> Callable[[], float]:
    """Lay a run down, and return what runs its script once and says how long that took, in seconds."""
    for name in ("tasks", "logs", "results", "submitted", "budget", "local"):
        (folder / name).mkdir(parents=True)
    (folder / "budget" / "limit").write_bytes(limit_line(10**12, longest=None, words="the budget of 50 USD"))
    for task in range(ended):
        (folder / "budget" / f"1_{task}-0={task}").touch()
    array = ArrayScript("r-0", "r-0-0", str(folder), 0, 1, 1, str(folder), has_budget=has_budget)
    script = folder / "job.sbatch"
    script.write_text(render(Sweep("true"), Job(), array))
    ids = {"SLURM_ARRAY_JOB_ID": "2", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_NAME": "r-0-0", "PATH": "/usr/bin:/bin", "HOSTNAME": "here"}

    def run() -> float:
        begin = time.perf_counter()
        subprocess.run(["bash", script], env=ids, check=True)
        return time.perf_counter() - begin

    return run


def tasks() -> None:
    print("a task's own time, medians:     without a budget    with one      ratio     more")
    for ended in (0, 1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            plain = prepare(Path(folder) / "plain", ended=0, has_budget=False)
            held = prepare(Path(folder) / "held", ended=ended, has_budget=True)
            pairs = [(plain(), held()) for _ in range(ROUNDS)]
        without, with_one = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{ended:>9,} tasks ended before:  {1000 * without:10.1f} ms    {1000 * with_one:9.1f} ms    {with_one / without:6.1f}    "
            f"{1000 * (with_one - without):7.1f} ms"
        )


def launches() -> None:
    for runs in (10, 1_000):
        with tempfile.TemporaryDirectory() as folder:
            book = BudgetBook(Path(folder) / "budgets.sqlite")
            budgeting = Budgeting(Journal(Path(folder) / "journal.sqlite"), book=book, ledger=Ledger(Path(folder) / "ledger.sqlite"))
            budgeting.set(EVERYTHING, MONTH, Decimal(10**6), "USD")
            with book.writing() as page:
                for k in range(runs):
                    page.grant(Grant(f"r-{k:08}", "/p", Decimal(5), "USD", time.time(), is_open=k % 10 == 0))
            lengths = []
            for _ in range(ROUNDS):
                begin = time.perf_counter()
                with book.reading() as page:
                    assert page is not None
                    budgeting.accounts(page)
                lengths.append(time.perf_counter() - begin)
        print(f"a month's account with {runs:,} runs, a tenth of them unfinished: {1000 * statistics.median(lengths):.1f} ms")


if __name__ == "__main__":
    tasks()
    launches()

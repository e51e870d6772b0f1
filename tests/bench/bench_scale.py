"""How it does at size, beside the raw commands: a real Slurm, one run of 10,000 trials, one table.

Run by name; it starts a sandbox of its own, and ends it::

    python tests/bench/bench_scale.py [submit] [poll] [memory] [--trials 10000] [--rounds 7]

``submit``: a planned run against the bare ``sbatch --array`` of the same script, beside submitit's
``map_array`` and hydra's submitit launcher where they are installed (the extra ``bench``).
``poll``: one look at a run, pending, half way and finished, to the DataFrame of ``status()``,
against the raw ``squeue -r`` and ``sacct -D -X`` of the same fields. Half way is a real 10,000-task
array that is stopped in the middle: it takes some minutes.
``memory``: a kernel that watches 10 runs for an hour; the clock is injected, the Slurm is real.

All figures of a table are taken in turn, in one process; quote medians and ratios. Nothing is
asserted: a number over its target is a number to look into.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nexa_sdk import Cluster, Sweep
from nexa_sdk.run import Run
from nexa_sdk.scheduling.slurm import accounting
from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec
from nexa_sdk.scheduling.watcher import Clock, Watcher

NODE = "n1"


def raw(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def timed(work: Callable[[], object]) -> float:
    """Return the milliseconds that some work takes; what others left for the disk and the controller is done before."""
    gc.collect()
    os.sync()
    time.sleep(0.5)
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def row(name: str, figures: list[float], *, beside: list[float] | None = None, target: str = "") -> None:
    """Print a line of the table: median and minimum, and the median of the rounds' ratios."""
    ratio = statistics.median(a / b for a, b in zip(figures, beside, strict=True)) if beside else None
    shown = "" if ratio is None else f"{ratio:.2f}"
    print(f"{name:62}{statistics.median(figures):9.1f} ms{min(figures):9.1f} ms{shown:>8}  {target}", flush=True)


@contextlib.contextmanager
def slurm(trials: int, nodes: int = 2) -> Iterator[Cluster]:
    """Start a sandbox that takes many tasks."""
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    box = Sandbox(folder / "box")
    os.environ.update(NEXA_SANDBOX=str(box.folder), NEXA_HOME=str(folder / "home"), **box.environment)
    try:
        box.start(SandboxSpec(nodes=nodes, gpus_per_node=0, cpus=32, max_array_size=2 * trials + 1, max_job_count=40 * trials))
        (folder / "work").mkdir()  # as a project is: what a peer writes lies beside it, not in it
        os.chdir(folder / "work")
        yield Cluster("sandbox")
    finally:
        os.chdir("/")
        box.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def pause_nodes(*, paused: bool) -> None:
    """Keep tasks from starting, or let them start."""
    raw("scontrol", "update", "NodeName=ALL", f"State={'drain' if paused else 'resume'}", *(["Reason=bench"] if paused else []))


# ---- submitting ----------------------------------------------------------------------------------


def submit(cluster: Cluster, trials: int, rounds: int) -> None:
    pause_nodes(paused=True)
    bare: list[float] = []
    ours: list[float] = []
    peers: dict[str, list[float]] = {"submitit: map_array": [], "hydra's submitit launcher": []}
    script = Path("bare.sbatch")
    for n in range(rounds + 1):
        plan = cluster.plan(Sweep("true", {"x": range(n * trials, (n + 1) * trials)}), time="0:10:00")
        script.write_text(plan.script)
        (Path(plan.folder) / "logs").mkdir(parents=True)
        figures = (
            timed(lambda: raw("sbatch", "--parsable", f"--array=0-{trials - 1}", str(script))),
            timed(plan.submit),
            timed(lambda: _submitit(trials)) if _has("submitit") else None,
        )
        raw("scancel", "-u", str(os.getuid()))
        if n:  # the first warms up
            bare.append(figures[0])
            ours.append(figures[1])
            if figures[2] is not None:
                peers["submitit: map_array"].append(figures[2])
    print(f"\nA run of {trials:,} trials submitted{' ' * 34}median      min   ours ÷ it")
    row(f"bare sbatch --array=0-{trials - 1}", bare)
    row("nexa_sdk: plan.submit(), checks and journal included", ours, beside=bare)
    over = [a - b for a, b in zip(ours, bare, strict=True)]
    row("nexa_sdk over the bare sbatch", over, target="≤ 60 ms over it")
    for name, figures in peers.items():
        if figures:
            row(name, figures)
            print(f"{'  nexa_sdk ÷ it':62}{statistics.median(a / b for a, b in zip(ours, figures, strict=True)):.3f}")
    if _has("hydra_plugins"):
        _hydra()
    pause_nodes(paused=False)


def _has(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def _submitit(trials: int) -> None:
    import submitit

    executor = submitit.SlurmExecutor(folder="../submitit", max_num_timeout=0)
    executor.update_parameters(time=10, array_parallelism=trials)
    with contextlib.redirect_stdout(None):
        executor.map_array(int, range(trials))


def _hydra(trials: int = 200) -> None:
    """Time hydra's launcher from its start until sbatch has answered: it then waits for the jobs."""
    Path("app.py").write_text(
        textwrap.dedent("""
            import hydra
            @hydra.main(version_base=None, config_path=None)
            def main(cfg): pass
            main()
        """)
    )
    Path("shims").mkdir(exist_ok=True)
    shim, answered = Path("shims/sbatch").absolute(), Path("answered").absolute()
    shim.write_text(f'#!/bin/bash\n{shutil.which("sbatch")} "$@"; code=$?; touch {answered}; exit $code\n')
    shim.chmod(0o755)
    argv = [sys.executable, "app.py", "-m", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=10", f"+x=range(0,{trials})"]
    began = time.perf_counter()
    process = subprocess.Popen(
        argv, env={**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not answered.exists() and process.poll() is None and time.perf_counter() - began < 120:
            time.sleep(0.005)
        took = 1000 * (time.perf_counter() - began)
    finally:
        process.kill()
        process.wait()
        raw("scancel", "-u", str(os.getuid()))
    words = "" if answered.exists() else " (it did not come so far)"
    print(f"hydra's submitit launcher, {trials} trials, from its start to sbatch's answer{words}: {took:.0f} ms")


# ---- looking -------------------------------------------------------------------------------------


def poll(cluster: Cluster, trials: int, rounds: int) -> None:
    pause_nodes(paused=True)
    run = cluster.launch(Sweep("true", {"x": range(trials)}), time="0:10:00")
    job = run.status()["job"][0].partition("_")[0]
    print(f"\nOne look at a run of {trials:,} trials{' ' * 35}median      min   ours ÷ it")
    _look("pending", run, job, rounds)
    pause_nodes(paused=False)
    while _ended(run) < trials // 2:
        time.sleep(2)
    pause_nodes(paused=True)
    time.sleep(3)
    _look(f"half way ({run.tally()})", run, job, rounds)
    pause_nodes(paused=False)
    while not run.is_finished:
        time.sleep(2)
        run.refresh()
    # A run that has ended is in the journal, and asks nothing: another process that has not seen it end does.
    print(f"{'finished, seen again: no command at all':62}{timed(run.status):9.1f} ms")
    with_out_the_end(run)
    _look("finished", run, job, rounds, forget_end=True)


def _ended(run: Run) -> int:
    return sum(attempt.status.state.is_terminal for attempt in run.refresh())


def with_out_the_end(run: Run) -> None:
    """Take the end out of the journal, so that it is asked for again."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(run._journal.path)) as journal, journal:
        journal.execute("UPDATE arrays SET final = NULL WHERE run = ?", (run.id,))


def _look(what: str, run: Run, job: str, rounds: int, *, forget_end: bool = False) -> None:
    environment = {**os.environ, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
    squeue = ["squeue", "-h", "-r", "-t", "all", "-j", job, "-o", accounting.SQUEUE_FORMAT]
    sacct = ["sacct", "-n", "-P", "-D", "-X", "-j", job, f"--format={accounting.SACCT_FIELDS}"]

    def both() -> None:
        for argv in (squeue, sacct):
            subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    theirs, ours = [], []
    for n in range(rounds + 1):
        if forget_end:
            with_out_the_end(run)
        figures = timed(both), timed(run.status)
        if n:
            theirs.append(figures[0])
            ours.append(figures[1])
    row(f"{what}: raw squeue -r and sacct -D -X", theirs)
    row(f"{what}: run.status()", ours, beside=theirs, target="≤ 1.5")


# ---- an hour of watching --------------------------------------------------------------------------


class Hour(Clock):
    """A clock whose waits take no time; it notes the memory, and ends after an hour."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.over = threading.Event()
        self.notes: list[tuple[float, float]] = []

    def now(self) -> float:
        return time.monotonic() + self.offset

    def wait_for(self, condition: threading.Condition, holds: Callable[[], bool], seconds: float) -> None:
        gc.collect()
        self.notes.append((self.offset, _resident()))
        self.offset += seconds
        if self.offset > 3600:
            self.over.set()
            super().wait_for(condition, holds, 60)


def _resident() -> float:
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def memory(cluster: Cluster, trials: int) -> None:
    pause_nodes(paused=True)
    runs = [cluster.launch(Sweep("true", {"x": range(n * trials, (n + 1) * trials)}), time="0:10:00") for n in range(10)]
    hour = Hour()
    watcher = Watcher(cluster.scheduler, hour)
    for run in runs:
        run._watcher = run._attempts._watcher = watcher
    before = _resident()
    subscriptions = [run.subscribe(lambda run=run: run.refresh(max_age=5.0)) for run in runs]
    hour.over.wait()
    for subscription in subscriptions:
        subscription.close()
    print(f"\nA kernel that watches 10 runs of {trials:,} trials for an hour: {len(hour.notes)} questions")
    print(
        f"  before {before:.1f} MB; then "
        + ", ".join(f"{at / 60:.0f} min {mb:.1f}" for at, mb in hour.notes[:: max(1, len(hour.notes) // 8)])
    )
    middle = [mb for at, mb in hour.notes if 600 < at <= 1800]
    end = [mb for at, mb in hour.notes if at > 2400]
    print(
        f"  median of minutes 10 to 30: {statistics.median(middle):.1f} MB; of the last 20: {statistics.median(end):.1f} MB (target: flat)"
    )
    pause_nodes(paused=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="How it does at size, beside the raw commands.")
    parser.add_argument("which", nargs="*", choices=["submit", "poll", "memory", []], help="all, unless given")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    which = args.which or ["submit", "poll", "memory"]
    if "submit" in which:
        with slurm(args.trials) as cluster:
            submit(cluster, args.trials, args.rounds)
    if "poll" in which:
        with slurm(args.trials, nodes=4) as cluster:
            poll(cluster, args.trials, args.rounds)
    if "memory" in which:
        with slurm(args.trials) as cluster:
            memory(cluster, args.trials)


if __name__ == "__main__":
    main()

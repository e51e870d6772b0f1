"""How fast it is, beside its peers: one table, from one run.

Run by name, in an environment with the extra ``bench`` (submitit, torchx)::

    python tests/bench/bench_speed.py [ROUNDS]

Each figure is taken in a fresh interpreter, and all of them in turn, round by round, so that a
machine whose speed drifts slows everybody alike: a ratio is the median of the rounds' own ratios.
Quote medians and ratios; a wide gap between minimum and median means that the machine was busy.
Bytecode is cached for all, as it is for installed packages, and one round before the first warms
the caches up. Nothing is asserted: a number over its target is a number to look into.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from textwrap import dedent

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDS = 9
HEAVY = ("pydantic", "pandas", "plotly", "paramiko", "ipywidgets", "docker", "IPython")

# What counts is `took`, the seconds from the first timed line to the last; the whole process is
# timed from outside as well.
CLOCK = """\
import time
began = time.perf_counter()
{timed}
took = time.perf_counter() - began
{after}
import json, sys
print(json.dumps({{"took": took, **globals().get("more", {{}})}}))
"""


@dataclass(frozen=True)
class Case:
    """Something to time in a fresh interpreter: what is timed, what comes before and after it."""

    name: str
    timed: str
    before: str = ""
    after: str = ""
    needs: str = ""  # a package
    once: bool = False  # a figure of memory does not waver

    @property
    def program(self) -> str:
        return dedent(self.before) + CLOCK.format(timed=dedent(self.timed), after=dedent(self.after))


# ---- importing ---------------------------------------------------------------------------------

BARE = Case("bare interpreter", "pass")
LOADED = f"import sys\nmore = {{'loaded': [name for name in {HEAVY} if name in sys.modules]}}"
IMPORT = Case("import nexa_sdk", "import nexa_sdk", after=LOADED)
IMPORT_SUBMITIT = Case("import submitit", "import submitit", needs="submitit")

SHELL = """\
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("1 + 1")
"""
LOAD_EXT = Case("%load_ext nexa_sdk", "shell.run_line_magic('load_ext', 'nexa_sdk')", before=SHELL, needs="IPython")

# ---- from import to the text of eight trials ---------------------------------------------------

PLAN = """\
from nexa_sdk import Cluster, Sweep
sweep = Sweep("python train.py", grid={{"lr": [1e-3, 1e-4], "seed": range(4)}})
text = Cluster("{cluster}").plan(sweep, time="1:00:00").script
"""
PLAN_SLURM = Case('nexa_sdk: Cluster("slurm").plan(…).script', PLAN.format(cluster="slurm"))
PLAN_LOCAL = Case('nexa_sdk: Cluster("local").plan(…).script', PLAN.format(cluster="local"))
# submitit's text says nothing of the trials: it pickles each of them when it submits.
PLAN_SUBMITIT = Case(
    "submitit: text of an array of 8",
    """\
    import submitit
    from submitit.slurm.slurm import _make_sbatch_string
    text = _make_sbatch_string("python train.py", "logs", job_name="train", time=60, map_count=8)
    """,
    needs="submitit",
)
APP = """\
from torchx import specs
def role(name, lr, seed):
    return specs.Role(name=name, image="/tmp", entrypoint="python", args=["train.py", "--lr", str(lr), "--seed", str(seed)])
trials = [(lr, seed) for lr in (1e-3, 1e-4) for seed in range(4)]
"""
PLAN_TORCHX = Case(
    "torchx: slurm scheduler's submit_dryrun, 8 roles",
    APP
    + dedent("""\
    from torchx.schedulers.slurm_scheduler import create_scheduler
    app = specs.AppDef(name="train", roles=[role(f"trial{n}", *trial) for n, trial in enumerate(trials)])
    text = create_scheduler("bench").submit_dryrun(app, {"time": "1:00:00"}).request.materialize()
    """),
    needs="torchx",
)
PLAN_TORCHX_JOBS = Case(
    "torchx: runner.dryrun, 8 jobs",
    APP
    + dedent("""\
    from torchx.runner import get_runner
    with get_runner() as runner:
        apps = [specs.AppDef(name="train", roles=[role("trial", *trial)]) for trial in trials]
        text = "".join(runner.dryrun(app, "slurm", {"time": "1:00:00"}).request.materialize() for app in apps)
    """),
    needs="torchx",
)
PLAN_TORCHX_COMPONENT = Case(
    "torchx: runner.dryrun_component, 8 replicas",
    """\
    from torchx.runner import get_runner
    with get_runner() as runner:
        words = ["--script", "train.py", "--num_replicas", "8", "--", "--trial", "${replica_id}"]
        text = runner.dryrun_component("utils.python", words, "slurm", {"time": "1:00:00"}).request.materialize()
    """,
    needs="torchx",
)

# ---- a million trials --------------------------------------------------------------------------

# What planning imports is imported before, by a small plan. The high-water mark is the process's
# own (VmHWM): ru_maxrss would carry that of the process which started it.
MILLION = """\
from nexa_sdk import Cluster, Sweep
Cluster("local").plan(Sweep("python train.py", grid={"seed": range(8)}), time="1:00:00").digest
def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))
"""
PLAN_MILLION = 'plan = Cluster("local").plan(Sweep("python train.py", grid=grid), time="1:00:00")\ntext = plan.script'
# Nearly all of a list's time is Python's repr of its floats: those of 17 digits take twice as long.
GRIDS = {
    "1000 × 1000 floats": "grid = {'lr': [k / 1e6 for k in range(1000)], 'decay': [k / 1e3 for k in range(1000)]}",
    "a list of 10⁶ floats k/10⁶": "grid = {'lr': [k / 1e6 for k in range(10**6)]}",
}
RESIDENT = """\
peak = kilobytes("VmHWM")
digest_began = time.perf_counter()
digest = plan.digest
more = {"digest": time.perf_counter() - digest_began, "memory": (peak - imported) * 1024, "beyond": (peak - given) * 1024}
"""


def plan_million(what: str, grid: str) -> Case:
    before = MILLION + f"imported = kilobytes('VmRSS')\n{grid}\ngiven = kilobytes('VmRSS')\n"
    return Case(f"10⁶ trials, {what}", PLAN_MILLION, before=before, after=RESIDENT)


def trace_million(what: str, grid: str) -> Case:
    before = MILLION + f"import tracemalloc\ntracemalloc.start()\n{grid}\ngiven = tracemalloc.get_traced_memory()[0]\n"
    after = "peak = tracemalloc.get_traced_memory()[1]\nmore = {'memory': peak, 'beyond': peak - given}"
    return Case(f"10⁶ trials, {what}, traced", PLAN_MILLION, before=before, after=after, once=True)


MILLIONS = [plan_million(*grid) for grid in GRIDS.items()]
TRACED = [trace_million(*grid) for grid in GRIDS.items()]
PEERS_OF_PLAN = [PLAN_TORCHX, PLAN_TORCHX_JOBS, PLAN_TORCHX_COMPONENT, PLAN_SUBMITIT]
CASES = [BARE, IMPORT, IMPORT_SUBMITIT, LOAD_EXT, PLAN_SLURM, PLAN_LOCAL, *PEERS_OF_PLAN, *MILLIONS, *TRACED]


# ---- measuring ---------------------------------------------------------------------------------


def measure(rounds: int) -> dict[Case, list[dict]]:
    """Run every case in turn, round after round; the first round is not counted."""
    measured: dict[Case, list[dict]] = {case: [] for case in CASES if not case.needs or importlib.util.find_spec(case.needs)}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "train.py").touch()
        paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONSTARTUP")}
        env |= {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONPYCACHEPREFIX": f"{folder}/bytecode",
            "IPYTHONDIR": f"{folder}/ipython",
            "NEXA_HOME": f"{folder}/nexa",
        }
        for number in range(rounds + 1):
            print(f"\rround {number} of {rounds} ", end="", file=sys.stderr, flush=True)
            for case, figures in measured.items():
                if case.once and number != 1:
                    continue
                figure = run(case, folder, env)
                if number:
                    figures.append(figure)
    print("\r" + " " * 20 + "\r", end="", file=sys.stderr)
    return measured


def run(case: Case, folder: str, env: dict[str, str]) -> dict:
    """Run a case once: its own figures, and the seconds of the whole process."""
    began = time.perf_counter()
    process = subprocess.run([sys.executable, "-c", case.program], cwd=folder, env=env, capture_output=True, text=True, check=False)
    ended = time.perf_counter()
    if process.returncode:
        raise SystemExit(f"{case.name} failed:\n{process.stderr}")
    return {"process": ended - began, **json.loads(process.stdout.splitlines()[-1])}


# ---- the table ---------------------------------------------------------------------------------


class Table:
    """Rows of figures: milliseconds or megabytes, and how they stand to ours and to their targets."""

    def __init__(self, measured: dict[Case, list[dict]]) -> None:
        self.measured = measured
        self.rows = [("", "median", "min", "nexa_sdk ÷ it", "target")]

    def add(self, case: Case, what: str = "", *, field: str = "took", ours: Case | None = None, target: str = "") -> None:
        name = case.name + (f", {what}" if what else "")
        if case not in self.measured:
            self.rows.append((name, "–", "–", "", f"{case.needs} is missing: pip install {case.needs.lower()}"))
            return
        figures = [figure[field] for figure in self.measured[case]]
        scale, unit = (1e-6, "MB") if field in ("memory", "beyond") else (1e3, "ms")
        shown = [f"{figure * scale:,.1f} {unit}" for figure in (statistics.median(figures), min(figures))]
        ratio = ""
        if ours is not None:
            mine = [figure[field] for figure in self.measured[ours]]
            ratio = f"{statistics.median(a / b for a, b in zip(mine, figures, strict=True)):.2f}"
        self.rows.append((name, *shown, ratio, target))

    def gap(self) -> None:
        self.rows.append(("",) * 5)

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        lines = []
        for name, *figures, target in self.rows:
            right = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=False)]
            lines.append("  ".join([name.ljust(widths[0]), *right, target]).rstrip())
        return "\n".join(lines)


def table(measured: dict[Case, list[dict]]) -> Table:
    """Lay the figures out."""
    made = Table(measured)
    made.add(IMPORT)
    made.add(IMPORT_SUBMITIT, ours=IMPORT, target="≤ 1")
    for case in (BARE, IMPORT, IMPORT_SUBMITIT):
        made.add(case, "whole process", field="process", ours=None if case is IMPORT else IMPORT)
    made.gap()
    made.add(LOAD_EXT, target="< 50 ms")
    made.gap()
    made.add(PLAN_SLURM)
    made.add(PLAN_LOCAL)
    for peer in PEERS_OF_PLAN:
        made.add(peer, ours=PLAN_SLURM, target="≤ 0.9" if peer.needs == "torchx" else "")
    for plan, traced in zip(MILLIONS, TRACED, strict=True):
        made.gap()
        made.add(plan, "plan.script", target="< 500 ms")
        made.add(plan, "then plan.digest", field="digest")
        made.add(plan, "resident peak over the import and these values", field="beyond", target="< 50 MB")
        made.add(plan, "resident peak over the import", field="memory")
        made.add(traced, "peak over the import and these values", field="beyond", target="< 50 MB")
    return made


def surroundings(measured: dict[Case, list[dict]], rounds: int) -> str:
    """Say what was measured, and on what."""
    packages = [name for name in ("submitit", "torchx", "pydantic", "IPython") if importlib.util.find_spec(name)]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    loaded = sorted({name for figure in measured[IMPORT] for name in figure["loaded"]})
    try:
        slurm = (
            "answers"
            if subprocess.run(["sinfo", "-h"], capture_output=True, timeout=30, check=False).returncode == 0
            else "does not answer"
        )
    except FileNotFoundError:
        slurm = "is not installed"
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {versions}; {rounds} rounds, a fresh interpreter each\n"
        f"Slurm {slurm} here; for a plan nexa_sdk asks it once, and so does a dry run of torchx\n"
        f"import nexa_sdk loads of {', '.join(HEAVY)}: {', '.join(loaded) or 'none'}"
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    measured = measure(rounds)
    print(f"{surroundings(measured, rounds)}\n\n{table(measured)}")


if __name__ == "__main__":
    main()

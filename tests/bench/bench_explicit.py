"""A million explicit trials, from rows to the planned script and the files beside it, against json.dumps of the same rows.

Run by name::

    python tests/bench/bench_explicit.py [ROUNDS]

Both are timed in turn in one process, round by round, and a ratio is the median of the rounds' own
ratios. Peaks of memory are taken in a process of their own each. Nothing is asserted.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nexa_sdk import Cluster, Sweep
from nexa_sdk.plan import Plan
from nexa_sdk.written import read_sweep, to_json

ROUNDS = 7
COUNT = 10**6
TARGET = 1.5


def make_rows() -> list[dict[str, Any]]:
    """Floats of 17 digits, whose repr is what takes longest on either side."""
    rng = random.Random(0)
    return [{"lr": rng.random(), "seed": k, "name": f"trial-{k}"} for k in range(COUNT)]


def make_plan(rows: list[dict[str, Any]]) -> Plan:
    return Cluster("local").plan(Sweep.from_trials("python train.py", rows), time="1:00:00")


def render(plan: Plan) -> int:
    """Render all that is submitted, a file at a time."""
    return len(plan.script) + sum(map(len, plan.files.values()))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def one_round(rows: list[dict[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    found["json.dumps(rows)"], _ = timed(lambda: json.dumps(rows))
    made, plan = timed(lambda: make_plan(rows))
    rendered, _ = timed(lambda: render(plan))
    found["planned, script and files rendered"] = made + rendered
    found["… of it until it is planned"] = made
    found["plan.digest"], _ = timed(lambda: plan.digest)
    found["plan.json"], text = timed(lambda: to_json(plan.written()))
    found["read back"], _ = timed(lambda: read_sweep(json.loads(text)["sweep"]))
    return found


def peaks() -> None:
    for what in ("rows", "dumps", "plan"):
        done = subprocess.run([sys.executable, __file__, "--peak", what], capture_output=True, text=True, check=True)
        print(f"{'resident peak, ' + what:<45}{int(done.stdout) / 1000:>10.0f} MB")


def peak(what: str) -> None:
    rows = make_rows()
    if what == "dumps":
        json.dumps(rows)
    elif what == "plan":
        render(make_plan(rows))
    # VmHWM is the process's own: ru_maxrss would carry that of the process which started it.
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")))


def main() -> None:
    if sys.argv[1:2] == ["--peak"]:
        return peak(sys.argv[2])
    rows = make_rows()
    one_round(rows)
    rounds = [one_round(rows) for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)]
    print(f"{COUNT:,} trials, {len(rounds)} rounds, Python {sys.version.split()[0]}")
    print(f"{'':<45}{'median':>10}{'min':>10}{'÷ json.dumps':>14}")
    for name in rounds[0]:
        figures = [found[name] for found in rounds]
        ratio = statistics.median(found[name] / found["json.dumps(rows)"] for found in rounds)
        target = f"  target ≤ {TARGET}" if name.startswith("planned") else ""
        print(f"{name:<45}{statistics.median(figures):>8.2f} s{min(figures):>8.2f} s{ratio:>14.2f}{target}")
    return peaks()


if __name__ == "__main__":
    main()

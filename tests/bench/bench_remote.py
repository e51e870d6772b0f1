"""How long a remote cell takes beside what it is made of: a trivial one on the embedded cluster.

Run by name::

    python tests/bench/bench_remote.py [ROUNDS]

Each round does all of them in turn: ``exec`` of the same code here; a bare ``python -c`` of it, as a
process; the same as a run that is launched and waited for, with its log read; and the remote cell,
from the call until its output is here. Then 100 MB are sent and brought back. A ratio is the median
of the rounds' own ratios. Nothing is asserted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 9
CODE = "print('hello')\ny = sum(range(1000))"
SIZE = 100_000_000  # bytes


def took(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    folder = Path(tempfile.mkdtemp(prefix="nexa-bench-"))
    os.environ["NEXA_HOME"] = str(folder / "home")
    (folder / "work").mkdir()
    os.chdir(folder / "work")
    from nexa_sdk import Cluster, Sweep

    local = Cluster("local")

    def run() -> None:
        launched = local.launch(Sweep([sys.executable, "-c", CODE], name="raw"), time="0:01:00", again=True)
        launched.wait(progress=False)
        launched.logs()

    def cell() -> None:
        assert local.remote(CODE, inputs={"x": 1}, outputs=["y"], time="0:01:00", again=True).result(show=False) == {"y": 499500}

    cases: dict[str, Callable[[], object]] = {
        "exec here": lambda: exec(CODE, {}),
        "python -c": lambda: subprocess.run([sys.executable, "-c", CODE], check=True, stdout=subprocess.DEVNULL),
        "run.launch, wait, logs": run,
        "remote cell": cell,
    }
    stdout, sys.stdout = sys.stdout, open(os.devnull, "w")
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):  # the first warms the caches up
        for name, act in cases.items():
            spent = took(act)
            if number:
                seconds[name].append(spent)
    data = os.urandom(SIZE)
    large = took(lambda: local.remote("y = x", inputs={"x": data}, outputs=["y"], time="0:02:00").result(show=False))
    copied = took(lambda: ((folder / "copy").write_bytes(data), (folder / "copy").read_bytes()))
    sys.stdout = stdout
    print(f"{'':24}{'least':>9}{'median':>9}{'remote cell is':>18}")
    for name, all_of in seconds.items():
        ratio = statistics.median(cell / other for cell, other in zip(seconds["remote cell"], all_of, strict=True))
        print(f"{name:24}{min(all_of):8.3f}s{statistics.median(all_of):8.3f}s{ratio:16.2f} ×")
    print(f"\n{SIZE / 1e6:.0f} MB there and back: {large:.2f} s; written to a file and read: {copied:.2f} s ({large / copied:.1f} ×)")


if __name__ == "__main__":
    main()

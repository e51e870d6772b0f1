"""What watching costs: the agent beside nvitop's collector, and a picture of 64 nodes with 8 GPUs each.

Run by name::

    python tests/bench/bench_utilization.py [--samples 600] [--nodes 64] [--seconds 3600]

The agent samples a stand-in for NVML's library with 8 GPUs, as fast as it can, by the very code that it
runs beside a program; what a sample costs in CPU time is what it costs a second at 1 Hz. nvitop's
collector (``pip install nvitop``) and nvidia-ml-py alone do so on the same library. Real drivers take
more for each call, whoever asks. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "gpus")]

import numpy as np  # noqa: E402
from stand_in import library_folder  # noqa: E402

from nexa_sdk.monitoring import agent  # noqa: E402
from nexa_sdk.monitoring.picture import Painter  # noqa: E402
from nexa_sdk.monitoring.telemetry import MOST_OF_A_TASK, Telemetry  # noqa: E402
from nexa_sdk.notebook import top_picture  # noqa: E402
from nexa_sdk.notebook.widgets.utilization_chart import UtilizationChart  # noqa: E402
from nexa_sdk.transports.local import LocalTransport  # noqa: E402

PREAMBLE = """
import os, sys, time
def measured(name, work, samples):
    work()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(samples):
        work()
    print(name, 1000 * (time.process_time() - cpu) / samples, 1000 * (time.perf_counter() - wall) / samples, flush=True)
"""

OURS = """
sys.path.insert(0, {agent!r})
import agent
sampler = agent.Sampler(1.0, os.getppid())
store = agent.Store({prefix!r}, sampler.header(), 750000)
measured("agent", lambda: store.add(sampler.read()), {samples})
"""

NVITOP = """
from nvitop import Device, ResourceMetricCollector
collector = ResourceMetricCollector(Device.all(), root_pids={{1}}, interval=1.0).activate("x")
def work():
    collector.take_snapshots() if hasattr(collector, "take_snapshots") else None
    return collector.collect()
measured("nvitop", work, {samples})
os._exit(0)
"""

PYNVML = """
import pynvml as n
n.nvmlInit()
gpus = [n.nvmlDeviceGetHandleByIndex(k) for k in range(n.nvmlDeviceGetCount())]
def work():
    for gpu in gpus:
        n.nvmlDeviceGetUtilizationRates(gpu); n.nvmlDeviceGetMemoryInfo(gpu, version=n.nvmlMemory_v2)
        n.nvmlDeviceGetTemperature(gpu, 0); n.nvmlDeviceGetTotalEnergyConsumption(gpu)
measured("nvidia-ml-py", work, {samples})
"""

NAMES = {
    "agent": "the agent: node, job, GPUs with saturation, and its file",
    "nvitop": "nvitop's collector: node and GPUs",
    "nvidia-ml-py": "nvidia-ml-py alone: 4 questions a GPU",
}


def agents(samples: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="nx-"))
    env = {**os.environ, "LD_LIBRARY_PATH": str(library_folder()), "STAND_IN_GPUS": "8"}
    words = {"agent": str(Path(agent.__file__).parent), "prefix": str(folder / "7_0"), "samples": samples}
    figures = {}
    try:
        for code in (OURS, NVITOP, PYNVML, OURS, NVITOP, PYNVML):
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(PREAMBLE) + code.format(**words)], env=env, capture_output=True, text=True
            )
            if done.returncode:
                print(f"left out: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
                continue
            name, cpu, wall = done.stdout.split()
            figures.setdefault(name, []).append((float(cpu), float(wall)))
    finally:
        shutil.rmtree(folder)
    print(f"\nCPU of a sample of 8 stand-in GPUs, {samples} samples, the better of two          ms     % of a core at 1 Hz")
    for name, found in figures.items():
        cpu, _ = min(found)
        print(f"{NAMES[name]:70} {cpu:6.3f} {cpu / 10:8.3f}")
    for name in ("nvitop", "nvidia-ml-py"):
        if name in figures:
            print(f"agent ÷ {name:62} {min(figures['agent'])[0] / min(figures[name])[0]:6.2f}")


# ---- 64 nodes ------------------------------------------------------------------------------------


def simulate(folder: Path, *, nodes: int, seconds: int) -> tuple[list[Path], list[list[bytes]]]:
    """Write the files of many nodes, as their agents would have, from a recorded sample with noise; and some seconds more to come."""
    recorded = (Path(__file__).parents[1] / "data" / "utilization" / "recorded.samples").read_bytes().splitlines()
    node, gpus = agent.decode(recorded[-1])
    chance = np.random.default_rng(1)
    paths, further = [], []
    begin = 1_700_000_000
    for number in range(nodes):
        devices = [{"index": k, "uuid": f"GPU-{number}-{k}", "name": "NVIDIA H100 80GB HBM3", "memory": 81559.0} for k in range(8)]
        header = {"nexa": 1, "node": f"gpu-node-{number:03}", "cores": 96, "ram": 2e6, "ram_limit": None, "source": "nvml", "gpus": devices}
        store = agent.Store(str(folder / "utilization" / "7_0"), header, MOST_OF_A_TASK)
        noise = chance.uniform(0, 100, (seconds + 10, 8, 6)).tolist()
        later = []
        for k in range(seconds + 10):
            told = [*node]
            told[0], told[1], told[2] = float(begin + k), 120.0, 1.0
            values = [[*row, 60000.0 + row[0], 400 + 2 * row[1], 60.0, 1.0] for row in noise[k]]
            if k < seconds:
                store.add((told, values))
            else:
                later.append(agent.encode((told, values)))
        store.flush()
        os.close(store._fd)
        paths.append(Path(store._path(store._halvings)))
        further.append(later)
    assert gpus
    return paths, further


def timed(work) -> tuple[np.ndarray, object]:
    """Return milliseconds on the clock and of CPU time, and what came of it."""
    began = np.array([time.perf_counter(), time.process_time()])
    found = work()
    return 1000 * (np.array([time.perf_counter(), time.process_time()]) - began), found


def pictures(nodes: int, seconds: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="nx-"))
    (folder / "utilization").mkdir()
    try:
        print(f"\n{nodes} nodes × 8 GPUs × 1 Hz × {seconds} s (simulating …)")
        paths, further = simulate(folder, nodes=nodes, seconds=seconds)
        size = sum(path.stat().st_size for path in paths)
        print(f"{'kept':60} {size / 1e6:8.1f} MB, {nodes * seconds:,} samples")
        took, go = timed(lambda: __import__("plotly.graph_objects", fromlist=["Figure"]))
        show("import plotly.graph_objects", took)
        rounds = []
        for _ in range(ROUNDS):
            telemetry, painter = Telemetry(LocalTransport(), str(folder)), Painter()
            reading, _ = timed(telemetry.read_on)
            gathering, picture = timed(lambda painter=painter, telemetry=telemetry: painter.picture(telemetry.series()))
            writing, figure = timed(lambda picture=picture: drawn(picture))
            rounds.append((reading, gathering, writing))
        best = min(rounds, key=lambda pieces: sum(pieces)[1])
        for name, took in zip(("read", "gather", "write figure, HTML and text", "all"), (*best, sum(best)), strict=True):
            show(f"first picture, the best of {ROUNDS}: {name}", took)
        show("(as a plotly figure in Python, if wanted)", timed(lambda: go.Figure(figure[0]))[0])
        print(f"{'figure as JSON':60} {len(json.dumps(figure[0])) / 1e3:8.0f} kB")
        chart = UtilizationChart()
        show("the live chart, made", timed(lambda: chart.update(picture, "run"))[0])
        updates = []
        for k in range(10):
            for path, later in zip(paths, further, strict=True):
                with open(path, "ab") as file:
                    file.write(later[k])
            reading, _ = timed(telemetry.read_on)
            gathering, picture = timed(lambda: painter.picture(telemetry.series()))
            writing, _ = timed(lambda picture=picture: drawn(picture))
            growing, _ = timed(lambda picture=picture: chart.update(picture, "run"))
            updates.append((reading, gathering, writing, growing))
        median = sorted(updates, key=lambda pieces: sum(pieces)[1])[len(updates) // 2]
        for name, took in zip(("read", "gather", "write HTML and text", "grow the live chart", "all"), (*median, sum(median)), strict=True):
            show(f"an update, the median of {len(updates)}: {name}", took)
    finally:
        shutil.rmtree(folder)


ROUNDS = 5


def drawn(picture) -> tuple[object, ...]:
    return top_picture.figure(picture, "run"), top_picture.html(picture, "run"), top_picture.text(picture, "run")


def show(name: str, took) -> None:
    print(f"{name:60} {took[0]:8.1f} ms, CPU {took[1]:8.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=3600)
    args = parser.parse_args()
    agents(args.samples)
    pictures(args.nodes, args.seconds)


if __name__ == "__main__":
    main()

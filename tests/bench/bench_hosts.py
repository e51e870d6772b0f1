"""A launch and a poll on two bare machines over SSH, beside OpenSSH with ControlMaster: real sshds, one table.

Run by name, as root; it starts two hosts in network namespaces of their own, and ends them::

    python tests/bench/bench_hosts.py [--rounds 15] [--latency 50]

The same over the bare line and over so many milliseconds of added round-trip time. The raw command of a launch
copies the script to each host and starts it there with ``setsid``, both at once, on open master connections: it
writes down nothing, asks for no free GPU, and would start it twice when sent twice. Figures are taken in turn, in
one process; quote medians and ratios. Commands are counted, not timed. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "ssh")]

from hosts import Hosts  # noqa: E402
from loopback import Line  # noqa: E402

from nexa_sdk import Cluster, Sweep  # noqa: E402
from nexa_sdk.transports.ssh.connection import Connection  # noqa: E402

NAMES = ("gpu1", "gpu2")
FIGURES = {
    "launch": "nexa_sdk: plan.submit(), checks and journal included",
    "poll": "nexa_sdk: a poll of a run on both",
    "command": "nexa_sdk: a command on one",
    "raw": "ssh, ControlMaster: cat the script and setsid it, both at once",
    "trip": "ssh, ControlMaster: a command on one",
}
commands = 0


def count_commands() -> None:
    """Count the sessions that are opened: each is a command."""
    plain = Connection.session

    def session(self: Connection, *, timeout: float):
        global commands  # noqa: PLW0603
        commands += 1
        return plain(self, timeout=timeout)

    Connection.session = session  # type: ignore[method-assign]


def timed(work: Callable[[], object]) -> tuple[float, int]:
    before, began = commands, time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began), commands - before


def measure(hosts: Hosts, folder: Path, *, rounds: int, latency: float) -> dict[str, float]:
    """Take the figures, print them, and return the medians."""
    with ExitStack() as stack:
        config = hosts.write_client(folder / f"ssh-{latency:g}")
        os.environ["NEXA_SSH_CONFIG"] = str(config)
        text = ""
        for name in NAMES:
            line = Line(22, host=hosts[name].ip, delay=latency / 2000)
            stack.callback(line.close)
            text += f"Host {name}-{latency:g}\n  HostName 127.0.0.1\n  Port {line.port}\n  HostKeyAlias {name}\n"
        config.write_text(text + config.read_text())
        aliases = [f"{name}-{latency:g}" for name in NAMES]
        masters = {name: ["ssh", "-F", str(config), "-o", f"ControlPath={folder}/m-{name}", name] for name in aliases}
        for master in masters.values():
            subprocess.run([*master[:-1], "-o", "ControlMaster=yes", "-o", "ControlPersist=600", "-fN", master[-1]], check=True)
            stack.callback(subprocess.run, [*master, "-O", "exit"], capture_output=True)
        cluster = Cluster.hosts(*aliases)
        sweep = Sweep(["true"], {"n": range(4)}, style="env")
        cluster.plan(sweep, time="0:05:00", workdir="/root").submit(again=True).wait(progress=False)  # what is sent but once
        figures: dict[str, list[tuple[float, int]]] = {name: [] for name in FIGURES}
        for _ in range(rounds):
            plan = cluster.plan(sweep, time="0:05:00", workdir="/root")
            script, digest, runs = plan.script.encode(), plan.digest, []
            assert digest
            figures["launch"].append(timed(lambda plan=plan, runs=runs: runs.append(plan.submit(again=True))))
            figures["poll"].append(timed(runs[0].refresh))
            some = cluster.transport.at(aliases[0])
            figures["command"].append(timed(lambda some=some: some.run(["true"], env={"PATH": "/usr/bin:/bin"}, timeout=10)))
            figures["raw"].append(timed(lambda script=script: raw(masters, script)))
            figures["trip"].append(timed(lambda: subprocess.run([*masters[aliases[0]], "true"], check=True)))
            runs[0].wait(progress=False)
    print(f"\nAdded round-trip time {latency:g} ms, {rounds} rounds" + " " * 24 + "median      min  commands")
    for name, values in figures.items():
        times = [value for value, _ in values]
        print(f"{FIGURES[name]:58} {statistics.median(times):7.1f} ms {min(times):7.1f} ms {values[-1][1] or '':>5}")
    ratio = statistics.median(ours / theirs for (ours, _), (theirs, _) in zip(figures["launch"], figures["raw"], strict=True))
    print(f"{'launch ÷ ssh, ControlMaster':58} {ratio:7.2f}")
    return {name: statistics.median(value for value, _ in values) for name, values in figures.items()}


def raw(masters: dict[str, list[str]], script: bytes) -> None:
    """Copy a script to each host and start it there, both at once."""
    command = "f=$(mktemp) && cat > $f && { SLURM_ARRAY_TASK_ID=0 setsid nohup bash $f > /dev/null 2>&1 < /dev/null & }"
    running = [
        subprocess.Popen([*master, f"bash -c '{command}'"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) for master in masters.values()
    ]
    for process in running:
        process.communicate(script)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--latency", type=float, default=50.0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    os.environ["NEXA_HOME"] = str(folder / "home")
    count_commands()
    try:
        with Hosts(*NAMES) as hosts:
            near, far = (measure(hosts, folder, rounds=args.rounds, latency=latency) for latency in (0.0, args.latency))
            for name in ("launch", "poll", "command"):
                print(f"{f'round trips of a {name}, by what it takes more':58} {(far[name] - near[name]) / args.latency:7.1f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

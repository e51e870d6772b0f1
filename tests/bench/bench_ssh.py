"""A launch, a poll and a log over SSH, beside OpenSSH with ControlMaster: a real sshd and a real Slurm, one table.

Run by name; it starts a sandbox and an sshd of its own, and ends them::

    python tests/bench/bench_ssh.py [--rounds 15] [--latency 50]

Of the peers those take part that are installed: ``pip install --editable .[bench]``. The same over loopback and over so many milliseconds of added round-trip time. ``scp, sbatch`` copies the
script and submits it, two commands on an open master connection; ``cat, sbatch`` is the same in one
command. Figures are taken in turn, in one process; quote medians and ratios. Nothing is asserted.
At last a hundred logs that grow are followed at once: connections, commands, and the share of a core that it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "ssh")]

from loopback import Line, Loopback  # noqa: E402

from nexa_sdk import Cluster, Sweep  # noqa: E402
from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec  # noqa: E402
from nexa_sdk.transports.ssh.transport import SshTransport  # noqa: E402


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def measure(host: Loopback, folder: Path, *, rounds: int, latency: float) -> None:
    line = Line(host.port, delay=latency / 2000)
    cluster = Cluster(f"ssh://127.0.0.1:{line.port}", runs=folder / "runs")
    cluster.limits()
    master = ["ssh", "-F", host.config, "-p", str(line.port), "-o", f"ControlPath={folder}/m-{line.port}"]
    subprocess.run([*master, "-o", "ControlMaster=yes", "-o", "ControlPersist=600", "-fN", "127.0.0.1"], check=True)
    target = f"{folder}/bare.sbatch"
    commands = {
        "trip": lambda: subprocess.run([*master, "127.0.0.1", "true"], check=True),
        "scp, sbatch": lambda: scp_and_sbatch(master, script, target),
        "cat, sbatch": lambda: subprocess.run(
            [*master, "127.0.0.1", f"bash -lc 'cat > {target} && sbatch {target}'"], input=script, check=True, capture_output=True
        ),
    }
    for name, submit in peers(host, line, folder).items():
        commands[name] = lambda submit=submit: submit(script.decode(), uuid.uuid4().hex)
        with contextlib.redirect_stdout(io.StringIO()):
            submit("#!/bin/sh\n", "first")  # the connection
    figures: dict[str, list[float]] = {}
    try:
        for n in range(rounds):
            plan = cluster.plan(Sweep(["true"], {"n": [n]}, style="env"), time="0:05:00", workdir=folder, options={"hold": True})
            script = plan.script.encode()
            digest = plan.digest  # of the code: what is measured here is the line
            assert digest
            runs = []
            figures.setdefault("launch", []).append(timed(lambda plan=plan, runs=runs: runs.append(plan.submit())))
            figures.setdefault("poll", []).append(timed(runs[0].refresh))
            figures.setdefault("command", []).append(
                timed(lambda: cluster.transport.run(["true"], env={"PATH": "/usr/bin:/bin"}, timeout=10))
            )
            for name, work in commands.items():
                figures.setdefault(name, []).append(timed(work))
    finally:
        subprocess.run([*master, "-O", "exit", "127.0.0.1"], capture_output=True)
        line.close()
    print(f"\nAdded round-trip time {latency:g} ms, {rounds} rounds" + " " * 20 + "   median      min")
    for name, values in figures.items():
        print(f"{NAMES.get(name, name):58} {statistics.median(values):6.1f} ms {min(values):6.1f} ms")
    for name in [name for name in commands if name != "trip"]:
        ratio = statistics.median(ours / theirs for ours, theirs in zip(figures["launch"], figures[name], strict=True))
        print(f"launch ÷ {name:49} {ratio:6.2f}")
    if latency:
        print(f"{'round trips of a launch, by its time':58} {statistics.median(figures['launch']) / latency:6.1f}")


NAMES = {
    "launch": "nexa_sdk: plan.submit(), checks and journal included",
    "poll": "nexa_sdk: a poll of a run",
    "command": "nexa_sdk: a command",
    "trip": "ssh, ControlMaster: a command",
    "scp, sbatch": "ssh, ControlMaster: scp the script, sbatch it",
    "cat, sbatch": "ssh, ControlMaster: cat the script and sbatch it, at once",
}


def peers(host: Loopback, line: Line, folder: Path) -> dict[str, Callable[[str, str], object]]:
    """Return how those peers submit a script that are installed, by their own code, over a connection that they keep."""
    found: dict[str, Callable[[str, str], object]] = {}
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    with contextlib.suppress(ImportError):  # 0.11 as a whole fails to find a module of Lepton's: its tunnel needs none
        import nemo_run  # noqa: F401
    with contextlib.suppress(ImportError):
        from nemo_run.core.tunnel.client import SSHTunnel

        tunnel = SSHTunnel(job_dir=str(folder / "nemo"), host="127.0.0.1", user=user, port=line.port, identity=str(host.folder / "id"))

        def submit(script: str, name: str) -> None:  # as its SlurmTunnelScheduler does: the folder, the script, sbatch
            with tempfile.NamedTemporaryFile("w") as file:
                file.write(script)
                file.flush()
                tunnel.run(f"mkdir -p {folder}/nemo/{name}")
                tunnel.put(file.name, f"{folder}/nemo/{name}/job.sh")
            tunnel.run(f"sbatch --hold --parsable {folder}/nemo/{name}/job.sh")

        found["NeMo-Run: SSHTunnel, mkdir, put, sbatch"] = submit
    with contextlib.suppress(ImportError):
        from slurm.api.ssh import SSHCommandBackend

        backend = SSHCommandBackend(
            "127.0.0.1",
            user,
            port=line.port,
            key_filename=str(host.folder / "id"),
            host_key_policy="auto",
            job_base_dir=str(folder / "peer"),
        )
        found["slurm_sdk: SSHCommandBackend.submit_job"] = lambda script, name: backend.submit_job(script, f"{folder}/peer/{name}", name)
    return found


def follow(host: Loopback, folder: Path, *, trials: int = 100, seconds: int = 30) -> None:
    """Follow as many logs at once, each of which grows by a line every second."""
    line = Line(host.port)
    cluster = Cluster(f"ssh://127.0.0.1:{line.port}", runs=folder / "runs")
    code = f"for i in $(seq {seconds}); do echo line $i of $x; sleep 1; done"
    run = cluster.launch(
        Sweep(["sh", "-c", code], {"x": range(trials)}, style="env"), time="0:10:00", pack=trials, side_by_side=True, workdir=folder
    )
    while "RUNNING" not in {attempt.status.state for attempt in run.refresh()}:
        time.sleep(0.2)
    commands, ask = [], SshTransport._run
    SshTransport._run = lambda self, argv, **more: commands.append(argv) or ask(self, argv, **more)  # type: ignore[assignment,method-assign]
    told = io.StringIO()
    cpu, began = time.process_time(), time.monotonic()
    try:
        with contextlib.redirect_stdout(told):
            run.logs(range(trials), follow=True)
    finally:
        SshTransport._run = ask  # type: ignore[method-assign]
    took, used = time.monotonic() - began, time.process_time() - cpu
    print(
        f"\n{trials} logs followed for {took:.0f} s: {len(told.getvalue().splitlines()):,} lines, {line.accepted} connection(s), "
        f"{len(commands) / took:.1f} commands a second, {100 * used / took:.1f} % of a core"
    )
    line.close()


def scp_and_sbatch(master: list[object], script: bytes, target: str) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(script)
        file.flush()
        options = [str(word) for word in master[1:]]
        options[options.index("-p")] = "-P"
        subprocess.run(["scp", "-q", *options, file.name, f"127.0.0.1:{target}"], check=True)
    subprocess.run([*map(str, master), "127.0.0.1", f"bash -lc 'sbatch {target}'"], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--latency", type=float, default=50.0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    box = Sandbox(folder / "box")
    host: Loopback | None = None
    try:
        box.start(SandboxSpec(nodes=1, gpus_per_node=0))
        host = Loopback(folder / "ssh", box.environment)
        host.start()
        # A peer writes the keys of hosts down without asking: not in the user's own file.
        os.environ.update({"NEXA_SSH_CONFIG": str(host.config), "NEXA_HOME": str(folder / "home"), "HOME": str(folder)})
        for latency in (0.0, args.latency):
            measure(host, folder, rounds=args.rounds, latency=latency)
        follow(host, folder)
    finally:
        if host is not None:
            host.stop()
        box.destroy()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

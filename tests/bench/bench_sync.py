"""A sync in which nothing changed beside the bare rsync command, and a fetch beside scp: a real sshd, one table.

Run by name; it starts an sshd of its own, and ends it::

    python tests/bench/bench_sync.py [--rounds 9] [--latency 50] [--files 5000] [--megabytes 100]

The same over loopback and over so many milliseconds of added round-trip time. Both sides end up with the same
files. The bare commands log in each time, as they do when they are typed; "ControlMaster" is the same over a
master connection that is open already. Figures are taken in turn, in one process; quote medians and ratios.
Nothing is asserted.
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
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "ssh")]

from loopback import Line, Loopback  # noqa: E402

from nexa_sdk import Cluster  # noqa: E402
from nexa_sdk.fetching import fetch  # noqa: E402


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def make_project(folder: Path, count: int) -> Path:
    root = folder / "project"
    for n in range(count):
        path = root / f"package{n // 100}" / f"module{n}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"VALUE = {n}\n" * 200)
    (root / ".gitignore").write_text("*.pyc\ndata/\n")
    git = ["git", "-C", str(root), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    return root


def measure(host: Loopback, folder: Path, root: Path, *, rounds: int, latency: float, megabytes: int) -> None:
    line = Line(host.port, delay=latency / 2000)
    cluster = Cluster(f"ssh://127.0.0.1:{line.port}")
    options = ["-F", str(host.config), "-o", f"Port={line.port}"]
    master = [*options, "-o", f"ControlPath={folder}/m-{line.port}"]
    bare, ours, back = folder / f"bare-{latency:g}", folder / f"ours-{latency:g}", folder / "back"
    write_blob(folder / "run" / "model.bin", megabytes)

    def rsync(ssh: list[str]) -> None:
        words = ["rsync", "-a", "--delete", "--exclude=.git", "--filter=:- .gitignore", "-e", f"ssh {' '.join(ssh)}"]
        subprocess.run([*words, f"{root}/", f"127.0.0.1:{bare}/"], check=True)

    def scp(ssh: list[str]) -> None:
        subprocess.run(["scp", "-q", *ssh, f"127.0.0.1:{folder}/run/model.bin", f"{back}/scp.bin"], check=True)

    def fetched() -> None:
        run = str(folder / "run")
        fetch(
            "run",
            cluster.transport,
            folder=run,
            workdir=run,
            patterns=["model.bin"],
            to=back,
            overwrite=False,
            timeout=None,
            progress=False,
        )

    subprocess.run(["ssh", *master, "-o", "ControlMaster=yes", "-o", "ControlPersist=600", "-fN", "127.0.0.1"], check=True)
    figures: dict[str, list[float]] = {}
    try:
        rsync(options)
        first = timed(lambda: cluster.sync(root, str(ours), progress=False))
        for _ in range(rounds):
            for name, work in (
                ("sync", lambda: cluster.sync(root, str(ours), progress=False)),
                ("rsync", lambda: rsync(options)),
                ("rsync, master", lambda: rsync(master)),
                ("fetch", fetched),
                ("scp", lambda: scp(options)),
                ("scp, master", lambda: scp(master)),
            ):
                shutil.rmtree(back, ignore_errors=True)
                back.mkdir()
                figures.setdefault(name, []).append(timed(work))
    finally:
        subprocess.run(["ssh", *master, "-O", "exit", "127.0.0.1"], capture_output=True)
        line.close()
    print(f"\nAdded round-trip time {latency:g} ms, {rounds} rounds; the first sync took {first:.0f} ms" + " " * 3 + "median      min")
    for name, values in figures.items():
        print(f"{NAMES[name]:58} {statistics.median(values):7.0f} ms {min(values):6.0f} ms")
    for one, others in (("sync", ("rsync", "rsync, master")), ("fetch", ("scp", "scp, master"))):
        for other in others:
            ratio = statistics.median(ours / theirs for ours, theirs in zip(figures[one], figures[other], strict=True))
            print(f"{f'{one} ÷ {other}':58} {ratio:7.2f}")


NAMES = {
    "sync": "nexa_sdk: cluster.sync(), nothing changed",
    "rsync": "rsync -a --delete with .gitignore, over ssh",
    "rsync, master": "the same, ControlMaster",
    "fetch": "nexa_sdk: run.fetch()",
    "scp": "scp",
    "scp, master": "scp, ControlMaster",
}


def write_blob(path: Path, megabytes: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--latency", type=float, default=50.0)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--megabytes", type=int, default=100)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    host = Loopback(folder / "ssh", {})
    try:
        root = make_project(folder, args.files)
        host.start()
        os.environ.update({"NEXA_SSH_CONFIG": str(host.config), "NEXA_HOME": str(folder / "home")})
        for latency in (0.0, args.latency):
            measure(host, folder, root, rounds=args.rounds, latency=latency, megabytes=args.megabytes)
    finally:
        host.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

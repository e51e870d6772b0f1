"""Telemetry of a run: how its agent is started, and the files that it writes, read as they grow."""

from __future__ import annotations

import base64
import gzip
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nexa_sdk.errors import CommandFailed
from nexa_sdk.monitoring.samples import SampleReader, Series

if TYPE_CHECKING:
    from nexa_sdk.transports.base import Transport

__all__ = ["AGENT", "FOLDER", "Telemetry", "agent_text", "most_bytes", "start_lines"]

FOLDER = "utilization"  # in the run's folder
AGENT = f"{FOLDER}/agent.py"

MOST_OF_A_TASK = 750_000  # bytes: an hour of 8 GPUs, each second
MOST_OF_A_RUN = 512 << 20
LEAST = 32_000  # bytes: 300 samples of one GPU at least
QUESTION = 60.0  # seconds

_NAME = re.compile(r"(?P<task>\d+_\d+)@(?P<node>.+)\.(?P<halvings>\d+)\.samples")

_START = """\
# what the node, the job and its GPUs do: an agent beside the program, where there is a python3; it ends with this shell
agent={agent} samples=$run/utilization/$job
if type -P python3 > /dev/null && [[ -r $agent ]]; then
  {launch}python3 -IS "$agent" follow --every {every:g} --most {most}{shell} "$samples" < /dev/null > /dev/null 2>> "$samples@$node.err" &
  disown
else
  echo "nexa: no python3 on $HOSTNAME: nothing will be known of its utilization" > "$samples@$node.err" || :
fi
"""


def agent_text() -> bytes:
    """Return the agent, as it travels with a run."""
    return Path(__file__).with_name("agent.py").read_bytes()


def most_bytes(tasks: int) -> int:
    """Say how large the file of a task may become on each node: a run of very many tasks keeps less of each."""
    return max(LEAST, min(MOST_OF_A_TASK, MOST_OF_A_RUN // max(1, tasks)))


def start_lines(every: float, *, tasks: int, nodes: int = 1) -> str:
    """Render what starts the agent: plain bash for the job's script, which knows ``$run``, ``$job`` and ``$node``.

    Parameters
    ----------
    every : float
        Seconds between samples.
    tasks, nodes : int
        How many tasks the run has, and how many nodes each.
    """
    launch = f"srun --overlap --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --quiet " if nodes > 1 else ""
    return _START.format(
        agent="$run/" + AGENT,
        every=every,
        most=most_bytes(tasks * nodes),
        launch=launch,
        shell="" if nodes > 1 else " --shell $$",
    )


# Sizes first, by one program; then what is new of those that grew. What lies there is ASCII, and no line begins with '>'.
_READ_ON = r"""
cd -- "$1" 2> /dev/null || exit 0
declare -A known
while IFS=' ' read -r offset name; do known[$name]=$offset; done
{
  find . -maxdepth 1 -type f \( -name '*.samples' -o -name '*.err' -size +0 \) -printf '%s %f\n' | while IFS=' ' read -r size name; do
    from=${known[$name]-0}
    printf '\n>%s %s\n' "$from" "$name"
    case $name in *.samples) ((size <= from)) || tail -c "+$((from + 1))" -- "$name" 2> /dev/null ;; esac
  done
} | gzip -1 | base64
"""


class Telemetry:
    """The samples of a run, read on from where they were read before.

    Parameters
    ----------
    transport : Transport
    folder : str
        The run's folder.
    """

    def __init__(self, transport: Transport, folder: str) -> None:
        self._transport = transport
        self._folder = f"{folder}/{FOLDER}"
        self._offsets: dict[str, int] = {}
        self._readers: dict[str, SampleReader] = {}
        self._complaints: dict[str, str] = {}

    def read_on(self) -> bool:
        """Fetch what is new, by one command; whether there was anything.

        Raises
        ------
        ClusterError
            When the cluster does not answer. What was read stays.
        """
        there, complaining = self._read_here() if self._transport.is_here else self._read_there()
        newest = _newest(there)
        is_new = False
        for name, content in there.items():
            if name in newest and content:
                task = _NAME.fullmatch(name)["task"]  # type: ignore[index]
                self._readers.setdefault(name, SampleReader(task)).feed(content)
                self._offsets[name] = self._offsets.get(name, 0) + len(content)
                is_new = True
        for name in set(self._readers) - newest:  # a file that was full lives on under its next number
            del self._readers[name], self._offsets[name]
        unread = sorted(complaining - set(self._complaints))
        if unread:
            found = self._transport.read_many(self._folder, unread)
            self._complaints.update({name: _complaint(found.get(name, b"")) for name in unread})
        return is_new

    def series(self, tasks: Sequence[str] | None = None) -> list[Series]:
        """Return what was read, of these tasks or of all."""
        wanted = None if tasks is None else set(tasks)
        found = [part for name in sorted(self._readers) for part in self._readers[name].series]
        return [part for part in found if wanted is None or part.task in wanted]

    @property
    def complaints(self) -> dict[str, str]:
        """What agents had to complain of, by ``<job>_<task>@<node>``: no python3, a full disk."""
        return {name.removesuffix(".err"): words for name, words in self._complaints.items() if words}

    @property
    def lost_lines(self) -> int:
        """How many lines were cut or garbled, and are left out."""
        return sum(reader.lost for reader in self._readers.values())

    def _read_here(self) -> tuple[dict[str, bytes], set[str]]:
        found: dict[str, bytes] = {}
        complaining = set()
        try:
            entries = list(os.scandir(self._folder))
        except (FileNotFoundError, NotADirectoryError):
            return {}, set()
        for entry in entries:
            try:
                size = entry.stat().st_size
                if entry.name.endswith(".err") and size:
                    complaining.add(entry.name)
                elif _NAME.fullmatch(entry.name):
                    offset = self._offsets.get(entry.name, 0)
                    found[entry.name] = self._transport.read(entry.path, offset=offset) if size > offset else b""
            except FileNotFoundError:  # it was full, and is written anew
                continue
        return found, complaining

    def _read_there(self) -> tuple[dict[str, bytes], set[str]]:
        known = "".join(f"{offset} {name}\n" for name, offset in self._offsets.items())
        answer = self._transport.run(
            ["bash", "-c", _READ_ON, "nexa-read", self._folder],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            stdin=known.encode(),
            timeout=QUESTION,
        )
        if answer.returncode:
            raise CommandFailed("bash", answer.returncode, answer.stderr)
        found: dict[str, bytes] = {}
        complaining = set()
        for piece in gzip.decompress(base64.b64decode(answer.stdout)).split(b"\n>")[1:] if answer.stdout else []:
            head, _, content = piece.partition(b"\n")
            offset, _, told = head.partition(b" ")
            name = told.decode(errors="replace")
            if name.endswith(".err"):
                complaining.add(name)
            elif _NAME.fullmatch(name) and int(offset) == self._offsets.get(name, 0):
                found[name] = content
        return found, complaining


def _complaint(content: bytes) -> str:
    """Leave out what Slurm says of every step that ends with its job."""
    lines = content.decode(errors="replace").splitlines()
    return "\n".join(
        line for line in lines if line.strip() and not re.search(r"\*\*\* (STEP|JOB) |^srun: (Job|First task|Force|forcing)", line)
    )


def _newest(names: Sequence[str] | dict[str, bytes]) -> set[str]:
    """Choose of each task and node the file that was halved most: for a moment the one before is there as well."""
    best: dict[tuple[str, str], tuple[int, str]] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match is not None:
            key = match["task"], match["node"]
            best[key] = max(best.get(key, (-1, "")), (int(match["halvings"]), name))
    return {name for _, name in best.values()}

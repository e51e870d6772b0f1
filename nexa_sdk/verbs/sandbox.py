"""sandbox: the throw-away Slurm."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from nexa_sdk.errors import BadUsage, nearest
from nexa_sdk.verbs.parser import Parser
from nexa_sdk.verbs.session import Session
from nexa_sdk.verbs.verb import Verb

__all__ = ["VERBS", "SandboxState"]

_WHAT = ("start", "stop", "status")


@dataclass(frozen=True)
class SandboxState:
    """How the sandbox is.

    Attributes
    ----------
    folder : Path
    daemons : dict of str to int or None
        Each daemon's process id; None where it is down.
    environment : dict of str to str
        What Slurm's own commands need to talk to it.
    """

    folder: Path
    daemons: dict[str, int | None]
    environment: dict[str, str]

    @property
    def is_up(self) -> bool:
        """Whether every daemon lives."""
        return bool(self.daemons) and None not in self.daemons.values()

    def __repr__(self) -> str:
        if not self.daemons:
            return f"There is no sandbox in {self.folder}; sandbox start makes one."
        lines = [f"  {name:<12} {'down' if pid is None else f'up, process {pid}'}" for name, pid in self.daemons.items()]
        return "\n".join([f"The sandbox in {self.folder} is {'up' if self.is_up else 'down'}.", *lines])


def _add(parser: Parser) -> None:
    parser.add("what", nargs="?", metavar="start|stop|status", completes=" ".join(_WHAT), help="status unless given")
    parser.add("--nodes", type=int, metavar="N", help="nodes of a new sandbox; 2 unless given")
    parser.add("--gpus-per-node", type=int, metavar="G", help="make-believe GPUs of each; 4 unless given")
    parser.add("--no-accounting", action="store_true", help="without slurmdbd and MariaDB: sacct then knows nothing")


def _sandbox(session: Session, args: Namespace) -> object:
    from nexa_sdk import settings
    from nexa_sdk.scheduling.slurm.sandbox import Sandbox

    what = args.what or "status"
    if what not in _WHAT:
        raise BadUsage(f"{session.prog} sandbox {what}: {nearest(what, _WHAT)}")
    given = {"nodes": args.nodes, "gpus_per_node": args.gpus_per_node, "accounting": False if args.no_accounting else None}
    given = {name: value for name, value in given.items() if value is not None}
    if given and what != "start":
        raise BadUsage(f"--nodes, --gpus-per-node and --no-accounting are for a new sandbox: they go with {session.prog} sandbox start")
    box = Sandbox(settings.sandbox_folder())
    if what == "start":
        from nexa_sdk.scheduling.slurm.sandbox import SandboxSpec

        box.start(SandboxSpec(**given) if given else None)
    elif what == "stop":
        box.stop()
    return SandboxState(box.folder, box.status(), box.environment)


VERBS = [
    Verb(
        "sandbox",
        "Start, stop or look at a real Slurm of one machine.",
        "start|stop|status [--nodes N] [--gpus-per-node G] [--no-accounting]",
        _add,
        _sandbox,
        more="connect sandbox uses it, and starts it if need be. One that exists keeps what it was made of.",
    )
]

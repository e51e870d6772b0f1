"""Session: what the lines of one notebook, or of one console, share."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Callable, Mapping
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import BadUsage, InvalidInput, RunNotFound

if TYPE_CHECKING:
    from nexa_sdk.cluster import Cluster
    from nexa_sdk.monitoring.usage.block import Usage
    from nexa_sdk.plan import Plan
    from nexa_sdk.run import Run

__all__ = ["Session"]

_TRIALS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


class Session:
    """What the lines of one notebook, or of one console, share.

    Parameters
    ----------
    prog : str
        What a line begins with: ``"%nexa"`` or ``"nexa"``.
    outputs : mapping, optional
        Options that every verb has for its result, by name, as ``add_argument`` has them.
    bind : callable, optional
        Gives an object a name, for ``--out NAME``.
    execute : callable, optional
        Executes the Python of a cell; the console has none.

    Attributes
    ----------
    namespace : mapping of str to object
        Where Python names are looked up; the console has none.
    body : str or None
        The cell below the line.
    last_run : Run or None
        What was launched or attached last.
    previewed : Plan or None
        What was previewed last and not yet launched.
    usage : Usage or None
        What records calls of LLM APIs until it is told to stop.
    partitions : dict of str to list of str
        The partitions of the clusters that were connected, for completion.
    """

    def __init__(
        self,
        prog: str,
        *,
        outputs: Mapping[str, Mapping[str, Any]] | None = None,
        bind: Callable[[str, object], None] | None = None,
        execute: Callable[[str], None] | None = None,
    ) -> None:
        self.prog = prog
        self.outputs = dict(outputs or {})
        self.namespace: Mapping[str, Any] = {}
        self.body: str | None = None
        self.last_run: Run | None = None
        self.previewed: Plan | None = None
        self.partitions: dict[str, list[str]] = {}
        self.execute = execute
        self.usage: Usage | None = None
        self._bind = bind
        self._cluster: Cluster | None = None

    # ---- clusters ------------------------------------------------------------------------------

    @property
    def cluster(self) -> Cluster:
        """The connected cluster; ``$NEXA_CLUSTER``, else the embedded one, until another is connected."""
        if self._cluster is None:
            from nexa_sdk.cluster import Cluster

            name = os.environ.get("NEXA_CLUSTER")
            # nexa connect exports both: the folder goes with the name, whatever its description says.
            self._cluster = Cluster(name, runs=os.environ.get("NEXA_RUNS") or None) if name else Cluster("local")
        return self._cluster

    @property
    def cluster_name(self) -> str:
        """The connected cluster's name; nothing is made or asked for it."""
        return self._cluster.name if self._cluster is not None else os.environ.get("NEXA_CLUSTER") or "local"

    def connect(self, cluster: Cluster) -> None:
        """Use a cluster from now on."""
        self.partitions[cluster.name] = cluster.partitions()
        self._cluster = cluster

    def find_cluster(self, name: str) -> Cluster:
        """Return a cluster by its Python name or by what ``Cluster(…)`` takes; the connected one stays itself."""
        from nexa_sdk.cluster import Cluster

        named = self.namespace.get(name)
        if isinstance(named, Cluster):
            return named
        made = Cluster(name)
        is_same = name == self.cluster_name and made.profile == self.cluster.profile
        return self.cluster if is_same else made  # a description may have changed since

    # ---- runs ----------------------------------------------------------------------------------

    def find_run(self, word: str | None) -> Run:
        """Return a run.

        Parameters
        ----------
        word : str or None
            Its id, the beginning of it, or a Python name; None means the last one.

        Raises
        ------
        RunNotFound
        """
        from nexa_sdk.journal import Journal
        from nexa_sdk.known import attach
        from nexa_sdk.run import Run

        if word is None:
            newest = [] if self.last_run is not None else Journal().run_ids(1)
            if self.last_run is None and not newest:
                raise RunNotFound(f"nothing was launched yet; {self.prog} launch starts a run")
            return self.last_run or attach(newest[0])
        named = self.namespace.get(word)
        if isinstance(named, Run):
            return named
        try:
            return attach(word)
        except RunNotFound as error:
            if word in self.namespace:
                raise RunNotFound(f"{word} is no Run but a {type(named).__name__}, and {error}") from None
            raise

    def mean(self, run: Run) -> None:
        """Have the lines that follow mean a run, unless they name another."""
        self.last_run = run

    def find_run_and_trials(self, words: list[str]) -> tuple[Run, list[int] | None]:
        """Read ``[RUN] [TRIALS]``; digits alone are trials.

        Raises
        ------
        BadUsage
            For other words.
        """
        from nexa_sdk.tasks import parse_tasks

        words = list(words)
        last = words.pop() if words and (len(words) > 1 or _TRIALS.fullmatch(words[-1])) else None
        if last is not None and not _TRIALS.fullmatch(last):
            raise BadUsage(f"{last!r} is no list of trials; write 3, or 0,3-5")
        if len(words) > 1:
            raise BadUsage(f"{words[1]!r} is one word too many; give a run and trials such as 0,3-5")
        run = self.find_run(words[0] if words else None)
        trials = parse_tasks(last) if last is not None and _is_small(last, run.trial_count) else None
        if last is not None and trials is None:
            raise InvalidInput(f"{last}: {run.id} has trials 0 to {run.trial_count - 1}, and a span goes upwards, as in 3-5")
        return run, trials

    # ---- results -------------------------------------------------------------------------------

    def name(self, values: Mapping[str, object]) -> None:
        """Give objects their names, where there are any: a console has none."""
        if self._bind is not None:
            for name, value in values.items():
                self._bind(name, value)

    def keep(self, args: Namespace, result: object) -> None:
        """Give the result a name, if the line said one with ``--out``."""
        name = getattr(args, "out", None)
        if name is None or self._bind is None:
            return
        self._bind(name, result)

    def check(self, args: Namespace) -> None:
        """Refuse a name for the result that Python has not; before anything is done."""
        name = getattr(args, "out", None)
        if name is not None and (not name.isidentifier() or iskeyword(name)):
            raise BadUsage(f"--out {name}: that is no Python name")


def _is_small(trials: str, count: int) -> bool:
    """Whether all trials are there: a typed span is not unfolded before that is known."""
    for part in trials.split(","):
        low, _, high = part.partition("-")
        if not int(low) <= int(high or low) < count:
            return False
    return True

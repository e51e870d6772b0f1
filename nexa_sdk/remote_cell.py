"""RemoteCell: a notebook's cell that runs on a cluster, found again from its run's id in any later process."""

from __future__ import annotations

import html
import pickle
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk.cell_following import Standing, follow
from nexa_sdk.errors import CellFailed, ClusterError, InvalidInput, RunNotFound
from nexa_sdk.remote.deliveries import note_delivered
from nexa_sdk.remote.packing import size_text
from nexa_sdk.remote.tape import Begun, Cleared, Ended, Shown, Text
from nexa_sdk.states import State

if TYPE_CHECKING:
    from nexa_sdk.notebook.cell_output import CellOutput
    from nexa_sdk.plan import Plan
    from nexa_sdk.run import Run
    from nexa_sdk.scheduling.base import TaskStatus
    from nexa_sdk.transports.base import Transport

__all__ = ["RemoteCell", "execute"]

SMALL = 4 << 20  # bytes of outputs that come by one command; more come as files do, and are taken up where a line went


class RemoteCell:
    """A cell that runs on a cluster, or has.

    Get one from ``cluster.remote(code, …)``, from ``%%nexa remote --detach``, or in a later process
    from ``attach(run_id).cell``.

    Attributes
    ----------
    run : Run
    outputs : tuple of str
        The names of what comes back.
    """

    def __init__(self, run: Run, transport: Transport) -> None:
        written = run.plan.get("cell")
        if written is None:
            raise InvalidInput(f"{run.id} is no remote cell: it was launched as a sweep. run.results() and run.logs() have what it did")
        self.run = run
        self.outputs: tuple[str, ...] = tuple(written["outputs"])
        self._is_over = False  # as the cell itself said, before its scheduler does
        self._written: Mapping[str, Any] = written
        self._transport = transport

    @property
    def id(self) -> str:
        """The run's id."""
        return self.run.id

    def result(self, timeout: float | None = None, *, show: bool = True, cancels: bool = False) -> dict[str, Any]:
        """Wait for the end of the cell, show what it shows, and return its outputs by name.

        Called again it shows and returns the same again. To read an output is to execute what its
        pickle says: outputs are trusted as the cluster is.

        Parameters
        ----------
        timeout : float, optional
            Seconds.
        show : bool
            Show text, values and pictures as they come, from the first on.
        cancels : bool
            Cancel the job on Ctrl-C. Unless so, the cell goes on.

        Raises
        ------
        CellFailed
            The code raised, the job ended before it, or an output can't be read here.
        TimeoutError
        ClusterError
        """
        return self._bring(_output(self._heading) if show else None, timeout, cancels=cancels)

    def _bring(self, output: CellOutput | None, timeout: float | None, *, cancels: bool) -> dict[str, Any]:
        ended: Ended | None = None
        try:
            ended = self._follow(output, timeout)
            values = self._fetch(ended)
        except KeyboardInterrupt:
            if cancels and ended is None:
                self._cancel_interrupted()
            else:
                what = "The cell goes on" if ended is None else "The cell has ended"
                _say(f"Detached. {what}: %nexa remote --attach {self.id}, or nexa_sdk.attach({self.id!r}).cell.result()")
            raise
        note_delivered(self.id)
        self._is_over = True
        self._see_it_end()
        return values

    def cancel(self) -> RemoteCell:
        """End it: first by TERM, then by KILL."""
        self.run.cancel()
        return self

    # ---- following -----------------------------------------------------------------------------

    def _follow(self, output: CellOutput | None, timeout: float | None) -> Ended:
        status: TaskStatus | None = None
        for event in follow(self.run, self._transport, timeout=timeout):
            if isinstance(event, Standing):
                status = event.status
                if output is not None:
                    output.stands(status, event.problem)
            elif isinstance(event, Ended):
                if event.error is not None:
                    raise self._failed(output, event.error, event.host)
                if output is not None:
                    output.ended(", ".join(f"{name} {size_text(about['size'])}" for name, about in event.outputs.items()))
                return event
            elif output is not None and isinstance(event, (Text, Shown, Cleared, Begun)):
                output.take(event)
        assert status is not None
        note_delivered(self.id)
        why = f": {status.reason}" if status.reason else f", with exit code {status.exit_code}" if status.exit_code is not None else ""
        raise CellFailed(f"{self.id} ended before its code did: it is {status.state}{why}", self.run, traceback=())

    def _failed(self, output: CellOutput | None, error: Mapping[str, Any], host: str) -> CellFailed:
        note_delivered(self.id)
        self._see_it_end()
        if output is not None:
            output.ended("", is_failed=True)
        where = f"line {error['line']}, " if error.get("line") else ""
        told = f"{error['type']}: {error['words']}" if error["type"] else error["words"]
        return CellFailed(f"{told} ({where}{self.id} on {host})", self.run, traceback=error["traceback"], kind=error["type"])

    def _see_it_end(self) -> None:
        """Have the journal learn of the run's end, which a scheduler tells a moment after the cell's own last word."""
        if self.run.is_finished:
            return

        def heard() -> None:
            self.run.try_refresh()
            if self.run.is_finished:
                subscription.close()

        subscription = self.run.subscribe(heard)

    def _cancel_interrupted(self) -> None:
        _say(f"Interrupted: {self.id} is cancelled …")
        try:
            self.run.cancel()
        except ClusterError as error:
            _say(f"{self.id} could not be cancelled, and may go on: {error}. %nexa cancel {self.id} tries again")
        else:
            note_delivered(self.id)

    # ---- outputs -------------------------------------------------------------------------------

    def _fetch(self, ended: Ended) -> dict[str, Any]:
        self._check_bytecode(ended)
        names = {name: f"{self.run.last_known[0].name}.{name}.pickle" for name in ended.outputs}
        folder = f"{self.run.folder}/cell/outputs"
        total = sum(about["size"] for about in ended.outputs.values())
        if not names:
            return {}
        if self._transport.is_here:
            return {name: self._read(name, Path(folder, file), ended) for name, file in names.items()}
        if total <= SMALL:
            found = self._read_small(folder, list(names.values()))
            return {name: self._unpickle(name, found.get(file, b""), ended) for name, file in names.items()}
        from nexa_sdk.fetching import fetch

        with tempfile.TemporaryDirectory(prefix="nexa-cell-") as here:
            fetched = fetch(
                self.id,
                self._transport,
                to=here,
                workdir=self.run.folder,
                folder=self.run.folder,
                patterns=[f"/cell/outputs/{file}" for file in names.values()],
                overwrite=True,
                timeout=None,
                progress=True,
            )
            paths = {path.name: path for path in fetched}
            return {name: self._read(name, paths.get(file, Path(here, file)), ended) for name, file in names.items()}

    def _read_small(self, folder: str, files: list[str]) -> dict[str, bytes]:
        """Read files; a line that goes is waited for."""
        import time

        is_told = False
        while True:
            try:
                return self._transport.read_many(folder, files)
            except ClusterError as error:
                if not error.may_pass:
                    raise
                if not is_told:
                    _say(f"{error}. The outputs come once the host is back …")
                is_told = True
                time.sleep(1)

    def _check_bytecode(self, ended: Ended) -> None:
        here = sys.version_info[:2]
        for name, about in ended.outputs.items():
            if about["has_code"] and ended.python[:2] != here:
                note_delivered(self.id)  # the same again would come to the same
                there = ".".join(map(str, ended.python))
                raise CellFailed(
                    f"{name} holds functions as bytecode of Python {there}, in which the cell ran, and this is Python {here[0]}.{here[1]}: "
                    f"define them in a module, or run the cell by the same Python (--python, --venv, --conda)",
                    self.run,
                    traceback=(),
                )

    def _read(self, name: str, path: Path, ended: Ended) -> Any:
        try:
            return self._unpickle(name, path.read_bytes(), ended)
        except OSError as error:
            raise CellFailed(f"the output {name} can't be read: {error}", self.run, traceback=()) from error

    def _unpickle(self, name: str, content: bytes, ended: Ended) -> Any:
        size = ended.outputs[name]["size"]
        if len(content) != size:
            note_delivered(self.id)
            raise CellFailed(
                f"the output {name} has {len(content)} of {size} bytes in {self.run.folder}/cell/outputs: was it removed?",
                self.run,
                traceback=(),
            )
        try:
            return pickle.loads(content)  # noqa: S301  trusted as the cluster is: see result()
        except Exception as error:
            raise CellFailed(
                f"the output {name} came, and can't be unpickled here: {type(error).__name__}: {error}. "
                f"Once that is mended, %nexa remote --attach {self.id} brings it",
                self.run,
                traceback=(),
            ) from error

    # ---- how it shows itself -------------------------------------------------------------------

    @property
    def _heading(self) -> str:
        given = ", ".join(f"{name} {size_text(about['size'])}" for name, about in self._written["inputs"].items())
        return f"{self.id} on {self.run.cluster}" + (f" · given {given}" if given else "")

    @property
    def state(self) -> State:
        """How it stands, as last known; nobody is asked."""
        return self.run.last_known[0].status.state if self.run.last_known else State.UNKNOWN

    def __repr__(self) -> str:
        known = "COMPLETED" if self._is_over else self.state if self.run.last_known else "submitted"
        outputs = f" → {', '.join(self.outputs)}" if self.outputs else ""
        return f"<RemoteCell {self.id} on {self.run.cluster}: {known}{outputs}>"

    def _repr_html_(self) -> str:
        attach = f"%nexa remote --attach {self.id}"
        return f"<div>{html.escape(repr(self)[1:-1])}<br><code>{html.escape(attach)}</code> brings what it shows and its outputs</div>"


def execute(plan: Plan, *, again: bool = False, launched: Callable[[Run], object] = lambda _: None) -> tuple[RemoteCell, dict[str, Any]]:
    """Submit the plan of a cell, wait for it and show what it shows; Ctrl-C cancels it, whenever it comes.

    Parameters
    ----------
    again : bool
        Execute it anew, though it is under way.
    launched : callable
        Is told the run, once it is there.

    Returns
    -------
    tuple of RemoteCell and dict
        The cell, and its outputs by name.
    """
    assert plan.cell is not None
    given = f" · given {plan.cell.words}" if plan.cell.inputs else ""
    output = _output(f"{plan.id} to {plan.cluster.url}{given}")
    try:
        cell = plan.submit(again=again).cell
        launched(cell.run)
        output.head(cell._heading)
    except KeyboardInterrupt:  # it came while it was submitted, and that came to its end
        _cancel_unseen(plan)
        raise
    return cell, cell._bring(output, None, cancels=True)


def _cancel_unseen(plan: Plan) -> None:
    try:
        run = plan.cluster.run(plan.cluster.journal.run(plan.id))
    except RunNotFound:  # it was never begun
        return
    run.cell._cancel_interrupted()


def _output(heading: str) -> CellOutput:
    from nexa_sdk.notebook.cell_output import CellOutput

    return CellOutput(heading)


def _say(words: str) -> None:
    print(words, file=sys.stderr)

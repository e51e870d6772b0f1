"""The journal: what was to be submitted, and what came of it. Written before anything is sent."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk import settings
from nexa_sdk.errors import JournalError, RunNotFound
from nexa_sdk.journal_file import JournalFile
from nexa_sdk.records import ArrayRecord, RunRecord
from nexa_sdk.tasks import parse_tasks

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Journal"]


class Journal:
    """The journal in a file; made when first written to."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or settings.home() / "journal.sqlite"
        self._file = JournalFile(self.path)

    # ---- what is written -----------------------------------------------------------------------

    def newest(self) -> int:
        """Return a mark of now: runs begun later are above it."""
        with self._file.reading() as connection:
            (mark,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM runs").fetchone()
        return int(mark)

    def begin(
        self, run: RunRecord, plan: Mapping[str, Any], arrays: Sequence[ArrayRecord], *, alike_since: int | None = None
    ) -> str | None:
        """Write down what is about to be submitted.

        Parameters
        ----------
        alike_since : int, optional
            A mark of :meth:`newest`: a run of the same digest and cluster that another kernel has begun
            since is taken instead.

        Returns
        -------
        str or None
            The id of the run that was there already, this one or another kernel's.

        Raises
        ------
        JournalError
            When another run has this id already.
        """
        with self._file.writing() as connection:
            known = connection.execute("SELECT digest FROM runs WHERE id = ?", (run.id,)).fetchone()
            if known is not None and known[0] != run.digest:
                raise JournalError(f"there is another run {run.id}; plan it again")
            if known is not None:
                return run.id
            if alike_since is not None:
                alike = connection.execute(
                    "SELECT id FROM runs WHERE digest = ? AND cluster = ? AND rowid > ?", (run.digest, run.cluster, alike_since)
                ).fetchone()
                if alike is not None:
                    return str(alike[0])
            connection.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run.id, run.cluster, run.folder, run.digest, run.trials, run.created, _pack(plan)),
            )
            self._insert(connection, arrays)
        return None

    def intend(self, arrays: Sequence[ArrayRecord], *, known: int) -> bool:
        """Write down further arrays of a run, before they are submitted.

        Parameters
        ----------
        known : int
            How many arrays the run is thought to have. If another process has added some meanwhile,
            nothing is written, and False returned.
        """
        with self._file.writing() as connection:
            (there,) = connection.execute("SELECT count(*) FROM arrays WHERE run = ?", (arrays[0].run,)).fetchone()
            if there == known:
                self._insert(connection, arrays)
        return bool(there == known)

    def _insert(self, connection: sqlite3.Connection, arrays: Sequence[ArrayRecord]) -> None:
        connection.executemany(
            f"INSERT INTO arrays ({_ARRAY}) VALUES ({', '.join('?' * len(_ARRAY.split(', ')))})", map(_write_array, arrays)
        )

    def adopt(self, arrays: Sequence[ArrayRecord]) -> None:
        """Write down arrays that were submitted on the cluster itself; those that are known already stay as they are."""
        with self._file.writing() as connection:
            known = {row[0] for row in connection.execute("SELECT token FROM arrays WHERE run = ?", (arrays[0].run,))}
            self._insert(connection, [array for array in arrays if array.token not in known])

    def send(self, token: str) -> int:
        """Write down that an array is about to be sent, and return the number of this sending, counted from 1."""
        with self._file.writing() as connection:
            connection.execute(
                "UPDATE arrays SET sends = sends + 1, outcome = 'intent', job_id = NULL, words = '', at = ? WHERE token = ?",
                (time.time(), token),
            )
            row = connection.execute("SELECT sends FROM arrays WHERE token = ?", (token,)).fetchone()
        if row is None:
            raise self._unknown(token)
        return int(row[0])

    def _unknown(self, token: str) -> JournalError:
        return JournalError(f"the journal {self.path} does not know the array {token}: was it removed?")

    def settle(self, token: str, outcome: str, *, job_id: str | None = None, words: str = "", unless_submitted: bool = False) -> None:
        """Write down what came of a submission; what was submitted may be known from another process meanwhile."""
        guard = " AND outcome != 'submitted'" if unless_submitted else ""
        with self._file.writing() as connection:
            statement = f"UPDATE arrays SET outcome = ?, job_id = ?, words = ? WHERE token = ?{guard}"
            changed = connection.execute(statement, (outcome, job_id, words, token)).rowcount
        if not changed and not unless_submitted:
            raise self._unknown(token)

    def finish(self, token: str, final: list[Any]) -> None:
        """Write down how all tasks of an array ended: they need not be asked for again."""
        with self._file.writing() as connection:
            connection.execute("UPDATE arrays SET final = ? WHERE token = ?", (_pack(final), token))

    def cancelled(self, token: str, tasks: str) -> None:
        """Write down that tasks are about to be cancelled."""
        with self._file.writing() as connection:
            connection.execute("INSERT INTO cancels VALUES (?, ?, ?)", (token, tasks, time.time()))

    def not_cancelled(self, token: str, tasks: str) -> None:
        """Take back what :meth:`cancelled` wrote: the scheduler did not hear it."""
        with self._file.writing() as connection:
            connection.execute("DELETE FROM cancels WHERE token = ? AND tasks = ?", (token, tasks))

    # ---- what is read --------------------------------------------------------------------------

    def run(self, run_id: str) -> RunRecord:
        """Return a run; the beginning of its id is enough where it is clear.

        Raises
        ------
        RunNotFound
        """
        with self._file.reading() as connection:
            rows = connection.execute(f"SELECT {_RUN} FROM runs WHERE id = ?", (run_id,)).fetchall()
            if not rows:
                rows = connection.execute(
                    f"SELECT {_RUN} FROM runs WHERE substr(id, 1, ?) = ? ORDER BY created DESC LIMIT 5", (len(run_id), run_id)
                ).fetchall()
        if len(rows) == 1 and run_id:
            return RunRecord(*rows[0])
        if rows:
            raise RunNotFound(f"{run_id!r} may be any of {', '.join(row[0] for row in rows)}; give more of it")
        raise RunNotFound(f"there is no run {run_id!r} in {self.path}; nexa_sdk.runs() lists those there are")

    def plan(self, run_id: str) -> dict[str, Any]:
        """Return a run's plan, as its ``plan.json`` has it."""
        with self._file.reading() as connection:
            row = connection.execute("SELECT plan FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is None:
            raise RunNotFound(f"the journal {self.path} does not know the run {run_id}; was it removed?")
        return dict(_unpack(row[0]))

    def runs(self, *, limit: int | None = None) -> list[RunRecord]:
        """Return the runs, the newest first."""
        with self._file.reading() as connection:
            rows = connection.execute(
                f"SELECT {_RUN} FROM runs ORDER BY created DESC, rowid DESC LIMIT ?", (-1 if limit is None else limit,)
            )
            return [RunRecord(*row) for row in rows]

    def outcome(self, run_id: str) -> str:
        """Say in a word what became of a run, as far as it is written down; one of `records.UNDER_WAY` if it may go on."""
        arrays = self.arrays(run_id)
        if any(array.outcome in ("intent", "unknown") for array in arrays):
            return "UNKNOWN"
        last: dict[int, str] = {}
        for array in arrays:
            if array.outcome in ("rejected", "void"):
                continue
            if array.final is None:
                return "SUBMITTED"
            for (_, _, trial), final in zip(array.places(), array.final, strict=True):
                last[trial] = final[0]
        if not last:
            return "REJECTED"
        return next((state for state in last.values() if state != "COMPLETED"), "COMPLETED")

    def run_ids(self, limit: int = 50) -> list[str]:
        """Return the newest runs' ids, for completion."""
        if not self.path.exists():
            return []
        with self._file.reading() as connection:
            return [row[0] for row in connection.execute("SELECT id FROM runs ORDER BY created DESC, rowid DESC LIMIT ?", (limit,))]

    def like(self, digest: str, cluster: str) -> list[str]:
        """Return the ids of runs of the same script and code on a cluster, the newest first."""
        with self._file.reading() as connection:
            rows = connection.execute(
                "SELECT id FROM runs WHERE digest = ? AND cluster = ? ORDER BY created DESC, rowid DESC", (digest, cluster)
            )
            return [row[0] for row in rows]

    def arrays(self, run_id: str) -> list[ArrayRecord]:
        """Return a run's arrays, in the order in which they were submitted."""
        with self._file.reading() as connection:
            rows = connection.execute(f"SELECT {_ARRAY} FROM arrays WHERE run = ? ORDER BY rowid", (run_id,)).fetchall()
        return [_read_array(row) for row in rows]

    def cancels(self, tokens: Sequence[str]) -> dict[str, list[str]]:
        """Return which tasks were cancelled from here, by token."""
        found: dict[str, list[str]] = {}
        with self._file.reading() as connection:
            for token in tokens:
                rows = connection.execute("SELECT tasks FROM cancels WHERE token = ?", (token,)).fetchall()
                if rows:
                    found[token] = [row[0] for row in rows]
        return found


_RUN = "id, cluster, folder, digest, trials, created"
_ARRAY = "token, run, script, first, tasks, at, count, outcome, job_id, words, final, sends, pack, trials, options, cause"


def _write_array(array: ArrayRecord) -> list[Any]:
    row = {name: getattr(array, name) for name in _ARRAY.split(", ")}
    row["final"] = None if array.final is None else _pack(array.final)
    row["trials"] = None if array.trials is None else json.dumps(array.trials)
    row["options"] = json.dumps(array.options)
    return list(row.values())


def _read_array(values: Sequence[Any]) -> ArrayRecord:
    row = dict(zip(_ARRAY.split(", "), values, strict=True))
    row["final"] = None if row["final"] is None else _unpack(row["final"])
    row["trials"] = None if row["trials"] is None else json.loads(row["trials"])
    row["options"] = json.loads(row["options"])
    if row["count"] is None:  # written by version 1: a trial a task
        row["count"] = len(parse_tasks(row["tasks"]))
    return ArrayRecord(**row)


def _pack(value: Any) -> bytes:
    return zlib.compress(json.dumps(value).encode(), 1)


def _unpack(blob: bytes) -> Any:
    return json.loads(zlib.decompress(blob))

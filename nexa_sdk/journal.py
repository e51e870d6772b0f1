"""The journal: what was to be submitted, and what came of it. Written before anything is sent.

One SQLite file, safe with several kernels. A rollback journal, not WAL: homes lie on network file
systems, where WAL corrupts (https://sqlite.org/wal.html#overview).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexa_sdk import settings
from nexa_sdk.errors import JournalError, RunNotFound
from nexa_sdk.tasks import parse_tasks

__all__ = ["ArrayRecord", "Journal", "RunRecord"]

VERSION = 1
WAIT = 30.0  # seconds for another kernel's transaction

_SCHEMA = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    cluster TEXT NOT NULL,          -- what Cluster(…) takes
    folder TEXT NOT NULL,           -- the run's folder on the cluster
    digest TEXT NOT NULL,           -- script and code: who plans the same again finds this run
    trials INTEGER NOT NULL,
    created REAL NOT NULL,          -- seconds since the epoch
    plan BLOB NOT NULL              -- plan.json, compressed
);
CREATE INDEX runs_by_digest ON runs (digest);
CREATE TABLE arrays (
    token TEXT PRIMARY KEY,
    run TEXT NOT NULL REFERENCES runs (id),
    script TEXT NOT NULL,
    first INTEGER NOT NULL,         -- the trial that task 0 carries
    tasks TEXT NOT NULL,            -- as sbatch --array has them
    outcome TEXT NOT NULL,          -- intent, submitted, rejected, unknown
    job_id TEXT,
    words TEXT NOT NULL DEFAULT '', -- the scheduler's, where it refused
    at REAL NOT NULL,
    final BLOB                      -- the tasks' statuses once all have ended, compressed JSON
);
CREATE INDEX arrays_by_run ON arrays (run);
CREATE TABLE cancels (              -- a pending task that is cancelled leaves no trace in Slurm
    token TEXT NOT NULL,
    tasks TEXT NOT NULL,
    at REAL NOT NULL
);
"""


@dataclass(frozen=True)
class RunRecord:
    """A run, as the journal has it."""

    id: str
    cluster: str
    folder: str
    digest: str
    trials: int
    created: float


@dataclass(frozen=True)
class ArrayRecord:
    """One array of a run: the first attempt of its trials, or a later one."""

    token: str
    run: str
    script: str
    first: int
    tasks: str
    outcome: str
    job_id: str | None
    words: str
    at: float
    final: list[Any] | None

    @property
    def size(self) -> int:
        """How many tasks it has."""
        return len(parse_tasks(self.tasks))


class Journal:
    """The journal in a file; made when first written to."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or settings.home() / "journal.sqlite"

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = self._connect()
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            self._prepare(connection)
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise JournalError(f"the journal {self.path}: {error}") from error
        finally:
            connection.close()

    @contextlib.contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        # Not read-only: a kernel that died in mid-commit leaves a transaction that the next reader rolls back.
        try:
            connection = self._connect()
            try:
                if self._check_version(connection) == 0:  # new, or just being made by another kernel
                    connection.execute("BEGIN IMMEDIATE")
                    self._prepare(connection)
                    connection.execute("COMMIT")
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise JournalError(f"the journal {self.path}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
        except (OSError, sqlite3.OperationalError) as error:
            raise JournalError(
                f"the journal {self.path} can't be opened: {error}; set NEXA_HOME to a folder that can be written"
            ) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._check_version(connection) == 0:
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")

    def _check_version(self, connection: sqlite3.Connection) -> int:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise JournalError(f"the journal {self.path} is of a newer nexa_sdk (format {version}, this one knows {VERSION}); upgrade it")
        return int(version)

    # ---- what is written -----------------------------------------------------------------------

    def newest(self) -> int:
        """Return a mark of now: runs begun later are above it."""
        with self._read() as connection:
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
        with self._open() as connection:
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

    def intend(self, arrays: Sequence[ArrayRecord]) -> None:
        """Write down further arrays of a run, before they are submitted."""
        with self._open() as connection:
            self._insert(connection, arrays)

    def _insert(self, connection: sqlite3.Connection, arrays: Sequence[ArrayRecord]) -> None:
        connection.executemany(
            "INSERT INTO arrays (token, run, script, first, tasks, outcome, job_id, at) VALUES (?, ?, ?, ?, ?, 'intent', NULL, ?)",
            [(array.token, array.run, array.script, array.first, array.tasks, array.at) for array in arrays],
        )

    def settle(self, token: str, outcome: str, *, job_id: str | None = None, words: str = "") -> None:
        """Write down what came of a submission."""
        with self._open() as connection:
            connection.execute("UPDATE arrays SET outcome = ?, job_id = ?, words = ? WHERE token = ?", (outcome, job_id, words, token))

    def finish(self, token: str, final: list[Any]) -> None:
        """Write down how all tasks of an array ended: they need not be asked for again."""
        with self._open() as connection:
            connection.execute("UPDATE arrays SET final = ? WHERE token = ?", (_pack(final), token))

    def cancelled(self, token: str, tasks: str) -> None:
        """Write down that tasks are about to be cancelled."""
        with self._open() as connection:
            connection.execute("INSERT INTO cancels VALUES (?, ?, ?)", (token, tasks, time.time()))

    def not_cancelled(self, token: str, tasks: str) -> None:
        """Take back what :meth:`cancelled` wrote: the scheduler did not hear it."""
        with self._open() as connection:
            connection.execute("DELETE FROM cancels WHERE token = ? AND tasks = ?", (token, tasks))

    # ---- what is read --------------------------------------------------------------------------

    def run(self, run_id: str) -> RunRecord:
        """Return a run; the beginning of its id is enough where it is clear.

        Raises
        ------
        RunNotFound
        """
        with self._read() as connection:
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
        with self._read() as connection:
            row = connection.execute("SELECT plan FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is None:
            raise RunNotFound(f"the journal {self.path} does not know the run {run_id}; was it removed?")
        return dict(_unpack(row[0]))

    def runs(self, *, limit: int | None = None) -> list[RunRecord]:
        """Return the runs, the newest first."""
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT {_RUN} FROM runs ORDER BY created DESC, rowid DESC LIMIT ?", (-1 if limit is None else limit,)
            )
            return [RunRecord(*row) for row in rows]

    def outcome(self, run_id: str) -> str:
        """Say in a word what became of a run, as far as it is written down."""
        arrays = self.arrays(run_id)
        if any(array.outcome in ("intent", "unknown") for array in arrays):
            return "UNKNOWN"
        last: dict[int, str] = {}
        for array in arrays:
            if array.outcome == "rejected":
                continue
            if array.final is None:
                return "SUBMITTED"
            for task, final in zip(parse_tasks(array.tasks), array.final, strict=True):
                last[array.first + task] = final[0]
        if not last:
            return "REJECTED"
        return next((state for state in last.values() if state != "COMPLETED"), "COMPLETED")

    def run_ids(self, limit: int = 50) -> list[str]:
        """Return the newest runs' ids, for completion."""
        if not self.path.exists():
            return []
        with self._read() as connection:
            return [row[0] for row in connection.execute("SELECT id FROM runs ORDER BY created DESC, rowid DESC LIMIT ?", (limit,))]

    def like(self, digest: str, cluster: str) -> list[str]:
        """Return the ids of runs of the same script and code on a cluster, the newest first."""
        with self._read() as connection:
            rows = connection.execute(
                "SELECT id FROM runs WHERE digest = ? AND cluster = ? ORDER BY created DESC, rowid DESC", (digest, cluster)
            )
            return [row[0] for row in rows]

    def arrays(self, run_id: str) -> list[ArrayRecord]:
        """Return a run's arrays, in the order in which they were submitted."""
        with self._read() as connection:
            rows = connection.execute(
                "SELECT token, run, script, first, tasks, outcome, job_id, words, at, final FROM arrays WHERE run = ? ORDER BY rowid",
                (run_id,),
            ).fetchall()
        return [ArrayRecord(*[*row[:-1], _unpack(row[-1]) if row[-1] else None]) for row in rows]

    def cancels(self, tokens: Sequence[str]) -> dict[str, list[str]]:
        """Return which tasks were cancelled from here, by token."""
        found: dict[str, list[str]] = {}
        with self._read() as connection:
            for token in tokens:
                rows = connection.execute("SELECT tasks FROM cancels WHERE token = ?", (token,)).fetchall()
                if rows:
                    found[token] = [row[0] for row in rows]
        return found


_RUN = "id, cluster, folder, digest, trials, created"


def _pack(value: Any) -> bytes:
    return zlib.compress(json.dumps(value).encode(), 1)


def _unpack(blob: bytes) -> Any:
    return json.loads(zlib.decompress(blob))

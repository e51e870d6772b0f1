"""The journal's file: its tables, its versions, and transactions that wait for one another.

A rollback journal, not WAL: homes lie on network file systems, where WAL corrupts
(https://sqlite.org/wal.html#overview).
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nexa_sdk.errors import JournalError

__all__ = ["JournalFile"]

VERSION = 2
WAIT = 60.0  # seconds for another process's transaction
QUIET = 2.0  # seconds of these that pass without a word

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
    outcome TEXT NOT NULL,          -- waiting, intent, submitted, rejected, unknown, void
    job_id TEXT,
    words TEXT NOT NULL DEFAULT '', -- the scheduler's, where it refused
    at REAL NOT NULL,
    count INTEGER,                  -- how many trials it has
    final BLOB,                     -- the trials' statuses once all have ended, compressed JSON
    sends INTEGER NOT NULL DEFAULT 0,    -- how often it was sent; each time has its number
    pack INTEGER NOT NULL DEFAULT 1,     -- trials of a task
    trials TEXT,                         -- JSON: which they are, where they do not follow one another
    options TEXT NOT NULL DEFAULT '{}',  -- JSON: fields of the job that are others than planned
    cause TEXT NOT NULL DEFAULT ''       -- why these trials are run again
);
CREATE INDEX arrays_by_run ON arrays (run);
CREATE TABLE cancels (              -- a pending task that is cancelled leaves no trace in Slurm
    token TEXT NOT NULL,
    tasks TEXT NOT NULL,
    at REAL NOT NULL
);
"""

# What turns a journal of version 1 into one of version 2.
_TO_2 = """
ALTER TABLE arrays ADD COLUMN count INTEGER;
ALTER TABLE arrays ADD COLUMN sends INTEGER NOT NULL DEFAULT 0;
ALTER TABLE arrays ADD COLUMN pack INTEGER NOT NULL DEFAULT 1;
ALTER TABLE arrays ADD COLUMN trials TEXT;
ALTER TABLE arrays ADD COLUMN options TEXT NOT NULL DEFAULT '{}';
ALTER TABLE arrays ADD COLUMN cause TEXT NOT NULL DEFAULT '';
"""


class JournalFile:
    """One SQLite file, safe with several processes; made when first opened.

    Attributes
    ----------
    name : str
        What messages call it.
    version : int
        Of its tables.
    schema : str
        What makes them.
    upgrade : str
        What makes them of those of the version before.
    """

    name = "journal"
    version = VERSION
    schema = _SCHEMA
    upgrade = _TO_2

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that writes; it is on disk when the block ends.

        Raises
        ------
        JournalError
            The file is a newer version's, is locked for longer than a minute, or can't be written
            (a full disk); nothing of the block is kept then.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            self._prepare(connection)
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that reads; see :meth:`writing`."""
        # Not read-only: a kernel that died in mid-commit leaves a transaction that the next reader rolls back.
        with self._transaction("BEGIN") as connection:
            if self._version(connection) == self.version:
                yield connection
                return
        with self.writing() as connection:  # new, old, or just being made by another kernel
            yield connection

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = self._connect()
        try:
            self._patiently(connection, "PRAGMA synchronous = FULL")  # reads the file, and so waits for a lock as well
            self._patiently(connection, begin)
            if begin == "BEGIN":
                self._patiently(connection, "PRAGMA user_version")  # a lock is taken by the first reading alone
            yield connection
            self._patiently(connection, "COMMIT")
        except sqlite3.Error as error:
            raise JournalError(f"the {self.name} {self.path}: {error}{_advice(error)}") from error
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return sqlite3.connect(self.path, timeout=QUIET, isolation_level=None)
        except (OSError, sqlite3.OperationalError) as error:
            raise JournalError(
                f"the {self.name} {self.path} can't be opened: {error}; set NEXA_HOME to a folder that can be written"
            ) from error

    def _patiently(self, connection: sqlite3.Connection, statement: str) -> None:
        """Execute a statement that takes a lock; say so when another process has it for long."""
        deadline, told = time.monotonic() + WAIT, False
        while True:
            try:
                connection.execute(statement).fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline:
                    raise
                if not told:
                    print(f"The {self.name} {self.path} is locked by another process; waiting for it …", file=sys.stderr)
                    told = True
            else:
                return

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = self._version(connection)
        if version == self.version:
            return
        for statement in filter(str.strip, (self.schema if version == 0 else self.upgrade).split(";\n")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {self.version}")

    def _version(self, connection: sqlite3.Connection) -> int:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > self.version:
            raise JournalError(
                f"the {self.name} {self.path} is of a newer nexa_sdk (format {version}, this one knows {self.version}); upgrade it"
            )
        return int(version)


def _advice(error: sqlite3.Error) -> str:
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if kind == sqlite3.SQLITE_FULL:
        return ": the disk or the quota is full; make room, or set NEXA_HOME to another folder"
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f": another process has had it for {WAIT:g} seconds"
    if kind == sqlite3.SQLITE_IOERR:
        return ": the disk failed, or is full"
    return ""

"""The ledger's file: its tables. It lies beside the journal, and is opened, locked and waited for as that is."""

from __future__ import annotations

from nexa_sdk.journal_file import JournalFile

__all__ = ["LedgerFile"]


class LedgerFile(JournalFile):
    """The ledger's SQLite file."""

    name = "ledger"
    version = 1
    upgrade = ""
    schema = """
CREATE TABLE launches (             -- what was planned: which program, at which prices
    run TEXT PRIMARY KEY,
    cluster TEXT NOT NULL,
    program TEXT NOT NULL,          -- digest of its command
    resources TEXT NOT NULL,        -- of a task, in words: trials that had others took another time
    rates TEXT NOT NULL,            -- JSON
    at REAL NOT NULL                -- seconds since the epoch
);
CREATE INDEX launches_by_program ON launches (program, cluster, resources, at);
CREATE TABLE prices (               -- JSON
    id INTEGER PRIMARY KEY, written TEXT NOT NULL UNIQUE);
CREATE TABLE places (id INTEGER PRIMARY KEY, cluster TEXT NOT NULL UNIQUE);
CREATE TABLE parties (              -- what many charges share
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,             -- what was used: compute; calls of APIs have tables of their own
    place INTEGER NOT NULL REFERENCES places (id),
    run TEXT NOT NULL,
    user TEXT NOT NULL,
    account TEXT NOT NULL,
    partition TEXT NOT NULL,
    gpu_type TEXT NOT NULL,
    state TEXT NOT NULL,
    price INTEGER NOT NULL,         -- 0: none is known
    UNIQUE (kind, place, run, user, account, partition, gpu_type, state, price)
);
CREATE INDEX parties_by_run ON parties (run);
CREATE TABLE charges (              -- one for each attempt
    place INTEGER NOT NULL,
    raw TEXT NOT NULL,              -- the attempt's job, by the id that it keeps when it is requeued
    start INTEGER NOT NULL,         -- milliseconds since the epoch, as all times here
    end INTEGER NOT NULL,           -- of one that runs: until when it was seen
    is_over INTEGER NOT NULL,
    party INTEGER NOT NULL REFERENCES parties (id),
    job TEXT NOT NULL,              -- as squeue -j takes it
    trial TEXT NOT NULL,
    gpu_ms INTEGER NOT NULL,
    cpu_ms INTEGER NOT NULL,
    node_ms INTEGER NOT NULL,
    nanos INTEGER,                  -- billionths of the price's currency; null where none is known
    asked REAL NOT NULL,            -- when it was known, in seconds since the epoch
    is_accounted INTEGER NOT NULL,  -- else from the run's own records
    PRIMARY KEY (raw, start, place)
) WITHOUT ROWID;
CREATE INDEX charges_by_job ON charges (job, place);
CREATE INDEX charges_by_party ON charges (party);
CREATE INDEX charges_by_time ON charges (end, start);
CREATE TABLE days (                 -- what the charges of a party come to on a day: a report reads these, and never 10⁶ rows
    day INTEGER NOT NULL,           -- since the epoch, in UTC
    party INTEGER NOT NULL REFERENCES parties (id),
    attempts INTEGER NOT NULL,
    gpu_ms INTEGER NOT NULL,
    cpu_ms INTEGER NOT NULL,
    node_ms INTEGER NOT NULL,
    units INTEGER NOT NULL,         -- of the currency, and billionths on top: one integer might not hold the sum
    nanos INTEGER NOT NULL,
    PRIMARY KEY (day, party)
) WITHOUT ROWID;
CREATE TABLE token_prices (         -- of calls; JSON
    id INTEGER PRIMARY KEY,
    written TEXT NOT NULL UNIQUE,
    read_at REAL NOT NULL           -- seconds since the epoch, when it was read first
);
CREATE TABLE callers (              -- what many calls of LLM APIs share
    id INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    run TEXT NOT NULL,
    trial TEXT NOT NULL,
    user TEXT NOT NULL,
    tag TEXT NOT NULL,
    state TEXT NOT NULL,
    why TEXT NOT NULL,              -- no price is known
    price INTEGER NOT NULL,         -- 0: none is known
    UNIQUE (provider, model, run, trial, user, tag, state, why, price)
);
CREATE INDEX callers_by_run ON callers (run);
CREATE TABLE calls (                -- one for each response
    response TEXT PRIMARY KEY,      -- its id; neither what was asked nor what was answered is kept
    at INTEGER NOT NULL,
    caller INTEGER NOT NULL REFERENCES callers (id),
    block TEXT NOT NULL,            -- the track_usage() that it came in
    used TEXT NOT NULL,             -- JSON: tokens by kind; none where it did not say them
    billed TEXT NOT NULL,           -- JSON: what each meter of the price counts
    nanos INTEGER                   -- billionths of the price's currency; null where none is known
) WITHOUT ROWID;
CREATE INDEX calls_by_time ON calls (at);
CREATE INDEX calls_by_caller ON calls (caller);
CREATE INDEX calls_by_block ON calls (block);
CREATE TABLE call_days (            -- what the calls of a caller come to on a day
    day INTEGER NOT NULL,
    caller INTEGER NOT NULL REFERENCES callers (id),
    calls INTEGER NOT NULL,
    used TEXT NOT NULL,
    billed TEXT NOT NULL,
    units INTEGER NOT NULL,
    nanos INTEGER NOT NULL,
    PRIMARY KEY (day, caller)
) WITHOUT ROWID;
"""

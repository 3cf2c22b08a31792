"""The sandbox's SQLite database, in memory or in a file.

There is one connection, used from one event loop. Handlers do not await anything after the body is read, so
they cannot interleave. Writes to a file survive a killed process but not a power failure (`synchronous =
OFF`), because speed matters more in tests.
"""

import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.sandbox.agents import agent_of
from service.sandbox.metadata_query import metadata_matches
from service.sandbox.urls import query_value

SCHEMA = """
CREATE TABLE IF NOT EXISTS domains (domain TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS links (
    id TEXT PRIMARY KEY, workspace TEXT NOT NULL, domain TEXT NOT NULL, key TEXT NOT NULL,
    lookup TEXT NOT NULL, doc TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0, clicks INTEGER NOT NULL DEFAULT 0, last_clicked INTEGER,
    leads INTEGER NOT NULL DEFAULT 0, conversions INTEGER NOT NULL DEFAULT 0,
    sales INTEGER NOT NULL DEFAULT 0, sale_amount INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX IF NOT EXISTS links_by_key ON links (domain, lookup) WHERE NOT deleted;

CREATE TABLE IF NOT EXISTS clicks (
    id TEXT PRIMARY KEY, at INTEGER NOT NULL, workspace TEXT NOT NULL, link_id TEXT NOT NULL,
    domain TEXT NOT NULL, key TEXT NOT NULL, identity TEXT NOT NULL, trigger TEXT NOT NULL,
    url TEXT NOT NULL, ip TEXT NOT NULL, country TEXT NOT NULL, region TEXT NOT NULL, city TEXT NOT NULL,
    continent TEXT NOT NULL, ua TEXT NOT NULL, referer TEXT NOT NULL, referer_url TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS clicks_by_identity ON clicks (identity, domain, key, at);
CREATE INDEX IF NOT EXISTS clicks_by_time ON clicks (at);

CREATE TABLE IF NOT EXISTS deferred (
    ip TEXT NOT NULL, domain TEXT NOT NULL, at INTEGER NOT NULL, click_id TEXT NOT NULL, link TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS deferred_by_ip ON deferred (ip, at);

CREATE TABLE IF NOT EXISTS customers (
    id TEXT PRIMARY KEY, workspace TEXT NOT NULL, external_id TEXT NOT NULL, name TEXT, email TEXT,
    avatar TEXT, click_id TEXT NOT NULL, country TEXT NOT NULL, created_at INTEGER NOT NULL,
    UNIQUE (workspace, external_id));

CREATE TABLE IF NOT EXISTS lead_keys (
    workspace TEXT NOT NULL, external_id TEXT NOT NULL, event TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (workspace, external_id, event)) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS leads (
    id TEXT PRIMARY KEY, at INTEGER NOT NULL, workspace TEXT NOT NULL, click_id TEXT NOT NULL,
    link_id TEXT NOT NULL, customer_id TEXT NOT NULL, name TEXT NOT NULL, metadata TEXT);
CREATE INDEX IF NOT EXISTS leads_by_customer ON leads (customer_id, at);
CREATE INDEX IF NOT EXISTS leads_by_time ON leads (at);

CREATE TABLE IF NOT EXISTS sales (
    id TEXT PRIMARY KEY, at INTEGER NOT NULL, workspace TEXT NOT NULL, click_id TEXT NOT NULL,
    link_id TEXT NOT NULL, customer_id TEXT NOT NULL, name TEXT NOT NULL, amount INTEGER NOT NULL,
    currency TEXT NOT NULL, processor TEXT NOT NULL, invoice_id TEXT, metadata TEXT,
    recurring INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS sales_by_customer ON sales (customer_id);
CREATE INDEX IF NOT EXISTS sales_by_time ON sales (at);

CREATE TABLE IF NOT EXISTS invoices (
    workspace TEXT NOT NULL, invoice_id TEXT NOT NULL, at INTEGER NOT NULL, answer TEXT NOT NULL,
    PRIMARY KEY (workspace, invoice_id)) WITHOUT ROWID;
"""


class Store:
    """Runs statements on SQLite and returns rows."""

    def __init__(self, data: Path | None) -> None:
        self._db = _connect(data)
        self._finalizer = weakref.finalize(self, self._db.close)

    def close(self) -> None:
        """Close the database; without this call, garbage collection closes it."""
        self._finalizer()

    def one(self, sql: str, args: Sequence[Any] = ()) -> sqlite3.Row | None:
        """Return the first row, or None."""
        row: sqlite3.Row | None = self._db.execute(sql, args).fetchone()
        return row

    def all(self, sql: str, args: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return all rows."""
        return self._db.execute(sql, args).fetchall()

    def run(self, sql: str, args: Sequence[Any] = ()) -> int:
        """Execute a statement; return how many rows it changed."""
        return self._db.execute(sql, args).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the statements inside as one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _connect(data: Path | None) -> sqlite3.Connection:
    """Open the database, and register the three SQL functions that `/events` uses."""
    if data is not None:
        data.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(data or ":memory:", isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    db.executescript(SCHEMA)
    db.create_function("agent", 2, lambda ua, part: getattr(agent_of(ua), part), deterministic=True)
    db.create_function("query_value", 2, query_value, deterministic=True)
    db.create_function("metadata_matches", 2, metadata_matches, deterministic=True)
    return db

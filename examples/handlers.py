"""Event handlers: what your own program does when a bank connection changes.

Copy this file to the directory of ``.env``, set ``MELDWATCH_HANDLERS=handlers``, and start ``meldwatch up``.

It writes two tables in a SQLite file. Delivery is at least once, so each handler is idempotent: the first stores the
event's id with its result, the second ignores events older than the last one it applied.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from meldwatch.handlers import PrimaryDuplicateMovedEvent, StatusChangedEvent, on

PATH = os.environ.get("REMINDERS", "reminders.db")

TABLES = """
CREATE TABLE IF NOT EXISTS reminder (event_id TEXT PRIMARY KEY, customer TEXT, institution TEXT, reason TEXT);
CREATE TABLE IF NOT EXISTS home (connection_id TEXT PRIMARY KEY, lives_at TEXT, sequence INTEGER);
"""


@on("connection.status_changed")
def remind(event: StatusChangedEvent) -> None:
    """Store a reminder: a customer must log in to their bank again. Another program reads the table and asks them."""
    if event.data.current.status != "RECONNECT_REQUIRED":
        return
    connection = event.data.connection
    with transaction() as database:
        database.execute(
            "INSERT INTO reminder VALUES (?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING",
            (event.id, connection.external_customer_id, connection.institution_name, event.data.current.status_reason),
        )


@on("connection.primary_duplicate_moved", seconds=5)
def follow(event: PrimaryDuplicateMovedEvent) -> None:
    """Store which member of the duplicate group now has the connection's data."""
    with transaction() as database:
        database.execute(
            "INSERT INTO home VALUES (?, ?, ?) ON CONFLICT (connection_id) DO UPDATE"
            " SET lives_at = excluded.lives_at, sequence = excluded.sequence WHERE excluded.sequence > home.sequence",
            (event.subject, event.data.current, int(event.sequence)),
        )


@contextmanager
def transaction() -> Iterator[sqlite3.Connection]:
    """Open the file, create its tables if needed, and run one transaction: it commits at the end, or not at all."""
    with closing(sqlite3.connect(PATH, timeout=4)) as database:
        database.executescript(TABLES)
        with database:
            yield database

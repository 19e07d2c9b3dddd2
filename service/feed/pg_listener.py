"""Listen: hears, as it happens, that another process has committed events. PostgreSQL alone can tell.

What it hears is a hint: the feed is looked at then. Where nothing is heard, because the connection is lost, or because
a pooler that lends a connection for one transaction at a time has taken it away, the feed's own look finds out.
"""

import threading
from collections.abc import Callable
from contextlib import closing
from time import monotonic

import psycopg
from psycopg import sql

from runtime import logs
from runtime.database import Database
from schemas.message_names import FEED_CHANNEL

log = logs.get_logger(__name__)

LISTEN_TIMEOUT_SECONDS = 1.0
"""How long it listens before it looks whether it shall end."""

KEEPALIVE_SECONDS = 10.0
"""How often the connection is tried: one that died without a word is silent as one that has nothing to say."""

RETRY_SECONDS = 1.0
"""The pause after a connection was lost, or not made."""


class PgListener:
    """Listens on a connection of its own, in a thread of its own: a part of each process that has readers of the feed.

    Args:
        database: A database on PostgreSQL.
        notify: Told that the feed may have grown.
    """

    def __init__(self, *, database: Database, notify: Callable[[], None]) -> None:
        self._database = database
        self._notify = notify
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listen", daemon=True)

    def start(self) -> None:
        """Start listening."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._is_stopping.set()
        self._thread.join(LISTEN_TIMEOUT_SECONDS + 1)

    def is_alive(self) -> bool:
        """Return whether it listens, or tries to."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            try:
                with closing(self._database.connect_unpooled()) as connection:
                    self._hear(connection)
            except Exception as error:  # noqa: BLE001 - whatever it was, those who wait are owed a new connection
                log.warning("feed not listened to", error=type(error).__name__, detail=str(error))
                self._is_stopping.wait(RETRY_SECONDS)

    def _hear(self, connection: psycopg.Connection[object]) -> None:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(FEED_CHANNEL)))
        self._notify()  # of what was committed while nobody listened
        tried_at = monotonic()
        while not self._is_stopping.is_set():
            for _notification in connection.notifies(timeout=LISTEN_TIMEOUT_SECONDS):
                self._notify()
            if monotonic() - tried_at >= KEEPALIVE_SECONDS:
                connection.execute("SELECT 1")
                tried_at = monotonic()

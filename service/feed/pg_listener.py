"""PostgreSQL LISTEN: receives notifications of events that other processes commit.

A notification only makes ``FeedNotifier`` poll. If notifications are missing, because the connection is lost or a
connection pooler works in transaction mode, periodic polling finds the events.
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
"""Time between two checks whether to stop."""

KEEPALIVE_SECONDS = 10.0
"""Time between two queries that test the connection: a dead one is as silent as an idle one."""

RETRY_SECONDS = 1.0
"""The pause after the connection failed."""


class PgListener:
    """Listens in a thread, on a connection outside the connection pool; for processes that serve the feed.

    Args:
        database: A PostgreSQL database.
        notify: Called when the feed may have grown.
    """

    def __init__(self, *, database: Database, notify: Callable[[], None]) -> None:
        self._database = database
        self._notify = notify
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pg-listener", daemon=True)

    def start(self) -> None:
        """Start listening."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._is_stopping.set()
        self._thread.join(LISTEN_TIMEOUT_SECONDS + 1)

    def is_alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            try:
                with closing(self._database.connect_unpooled()) as connection:
                    self._listen(connection)
            except Exception as error:  # noqa: BLE001 - connect again, whatever the error
                log.warning("feed listener failed", error=type(error).__name__, detail=str(error))
                self._is_stopping.wait(RETRY_SECONDS)

    def _listen(self, connection: psycopg.Connection[object]) -> None:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(FEED_CHANNEL)))
        self._notify()  # of events that were committed before the LISTEN
        tested_at = monotonic()
        while not self._is_stopping.is_set():
            for _notification in connection.notifies(timeout=LISTEN_TIMEOUT_SECONDS):
                self._notify()
            if monotonic() - tested_at >= KEEPALIVE_SECONDS:
                connection.execute("SELECT 1")
                tested_at = monotonic()

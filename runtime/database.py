"""Database access for SQLite and PostgreSQL: connection pool, transactions, upsert, the shared clock.

Both databases run the same statements. Their differences are handled here and in ``service/ingest/webhook_insert.py``.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ARRAY,
    JSON,
    CursorResult,
    Engine,
    Executable,
    String,
    TableValuedAlias,
    bindparam,
    create_engine,
    event,
    func,
    null,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql import ColumnElement
from sqlmodel import Session, SQLModel
from sqlmodel.sql.sqltypes import UTCDateTime

from runtime.clock import Clock, utcnow
from runtime.errors import OutOfReachError

if TYPE_CHECKING:
    import psycopg

SQLITE_BUSY_TIMEOUT_SECONDS = 8
"""How long SQLite waits for its write lock; transactions here are far shorter."""

SQLITE_BUSY_POLL_SECONDS = 0.02
"""The interval of retries where SQLite itself does not wait."""

STATEMENT_TIMEOUT_SECONDS = 8
"""PostgreSQL's timeout for one statement: a webhook must be answered within Meld's 10 s."""

Insert = postgresql.Insert | sqlite.Insert


class Database:
    """The database connection of a process. Threads share it.

    Args:
        url: ``sqlite:///...`` or ``postgresql://...``.
        pool_size: The maximum number of open connections.
        clock: The source of all times. By default, PostgreSQL's own clock is used, so that clock skew between
            machines does not matter, and for SQLite the clock of this machine.
    """

    def __init__(self, url: str, *, pool_size: int = 10, clock: Clock | None = None) -> None:
        parsed = make_url(url)
        self.is_postgres = parsed.get_backend_name() == "postgresql"
        self._has_server_clock = clock is None and self.is_postgres
        self.clock = clock or utcnow
        self._statements: dict[tuple[Callable[..., Executable], tuple[object, ...]], Executable] = {}
        # SQLite has one writer at a time, and a waiting connection polls. Threads wait more efficiently for a lock.
        self._write_lock: AbstractContextManager[object] = nullcontext() if self.is_postgres else threading.Lock()
        if self.is_postgres:
            self._writer = _postgres_engine(parsed, pool_size)
            self._reader = self._writer
        else:
            self._writer = _sqlite_engine(parsed, "BEGIN IMMEDIATE", pool_size)
            self._reader = _sqlite_engine(parsed, "BEGIN", pool_size)

    @property
    def engine(self) -> Engine:
        """The engine for writing, for migrations and for the webhook inbox, which uses the driver directly."""
        return self._writer

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that writes. It commits at the end, or rolls back after an exception.

        Raises:
            OutOfReachError: If the database does not answer.
        """
        with self._write_lock, self._session(self._writer) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that only reads.

        Raises:
            OutOfReachError: If the database does not answer.
        """
        with self._session(self._reader) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Open a transaction that only reads, and sees all rows as they were at its first statement.

        Keep it short: as long as it is open, the database keeps all rows that others overwrite.

        Raises:
            OutOfReachError: If the database does not answer.
        """
        with self._session(self._reader) as session:
            if self.is_postgres:  # SQLite's transactions always are
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        try:
            # Do not refresh loaded rows after a bulk statement: to find out which ones changed costs as much as the
            # statement itself.
            options = {"synchronize_session": False}
            with Session(engine, expire_on_commit=False, execution_options=options) as session:
                yield session
        except DBAPIError as error:
            raise translate_error(error) from error
        except PoolTimeoutError as error:
            raise OutOfReachError("All connections to the database are in use, and none became free.") from error

    def now(self, seconds: float = 0) -> ColumnElement[datetime]:
        """Return an SQL expression for the present time, plus ``seconds``."""
        if self._has_server_clock:
            return _postgres_now(seconds)
        # The clock is read when the statement runs, which may have been built long before. Equal offsets share one
        # parameter name, hence one time.
        moment = timedelta(seconds=seconds)
        return bindparam(f"now{seconds:+g}", type_=UTCDateTime(), callable_=lambda: self.clock() + moment)

    def run(
        self, session: Session, make: Callable[..., Executable], *fixed: object, **values: object
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run a statement that is built once and cached: to build it costs several times as much as to send it.

        Args:
            session: An open transaction.
            make: Builds the statement from this database and ``fixed``.
            fixed: Arguments with few different values: one statement is cached for each combination.
            values: The statement's parameters. In an ``UPDATE`` or ``INSERT``, none may have the name of a column.
        """
        statement = self._statements.get((make, fixed))
        if statement is None:
            statement = self._statements[make, fixed] = make(self, *fixed)
        return session.connection().execute(statement, values)

    def insert(self, table: type[SQLModel]) -> Insert:
        """Return an ``INSERT`` statement of the dialect, which supports upserts (``on_conflict_do_...``)."""
        return postgresql.insert(table) if self.is_postgres else sqlite.insert(table)

    def unnest(self, name: str) -> TableValuedAlias:
        """Return the rows of a parameter that is a list of texts, in its order, with one column ``value``."""
        if self.is_postgres:
            return func.unnest(bindparam(name, type_=ARRAY(String))).table_valued("value").render_derived()
        return func.json_each(bindparam(name, type_=JSON)).table_valued("value")

    def notify_expression(self, channel: str) -> ColumnElement[Any]:
        """Return an SQL expression that, when selected, notifies the listeners of a channel on commit (``NOTIFY``).

        On SQLite, which has no listeners, it is null.
        """
        return func.pg_notify(channel, "") if self.is_postgres else null()

    def connect_unpooled(self) -> "psycopg.Connection[Any]":
        """Return a connection to PostgreSQL outside of the pool, in autocommit mode; the caller closes it.

        Raises:
            OutOfReachError: If the database does not answer.
        """
        try:
            pooled = self._writer.connect()
        except DBAPIError as error:
            raise translate_error(error) from error
        except PoolTimeoutError as error:
            raise OutOfReachError("All connections to the database are in use, and none became free.") from error
        connection = pooled.connection.driver_connection
        pooled.detach()
        import psycopg  # noqa: PLC0415 - slow to import, and SQLite does not need it

        assert isinstance(connection, psycopg.Connection)
        connection.autocommit = True
        return connection

    def close(self) -> None:
        """Close all connections."""
        self._writer.dispose()
        self._reader.dispose()


@lru_cache(maxsize=128)
def _postgres_now(seconds: float) -> ColumnElement[datetime]:
    present: ColumnElement[datetime] = func.statement_timestamp(type_=UTCDateTime())
    return present + func.make_interval(0, 0, 0, 0, 0, 0, seconds) if seconds else present


def translate_error(error: DBAPIError) -> DBAPIError | OutOfReachError:
    """Return the exception to raise: ``OutOfReachError`` if the database does not answer, else the error."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    # SQLite raises an OperationalError also for a wrong statement, with this code. PostgreSQL raises one also if a
    # limit is exceeded (class 54), for example by a value that is too long for an index.
    is_wrong = code == sqlite3.SQLITE_ERROR or (getattr(error.orig, "sqlstate", None) or "").startswith("54")
    is_unavailable = (isinstance(error, OperationalError) and not is_wrong) or error.connection_invalidated
    if is_unavailable or code == sqlite3.SQLITE_NOTADB:
        return OutOfReachError("The database does not answer. Is it running, and is DATABASE_URL right?")
    return error


def _postgres_engine(url: URL, pool_size: int) -> Engine:
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # see _sqlite_engine
        pool_timeout=STATEMENT_TIMEOUT_SECONDS,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={
            "connect_timeout": 5,
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS}s -c timezone=UTC",
            "application_name": "meldwatch",
            # If the server's machine vanishes, a thread must not wait for the kernel's default of two hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": STATEMENT_TIMEOUT_SECONDS * 1000,
        },
    )


def _sqlite_engine(url: URL, begin: str, pool_size: int) -> Engine:
    if url.database is not None:
        # Create a new file readable by its owner only; SQLite would apply the umask.
        with suppress(OSError):  # SQLite reports the error
            Path(url.database).touch(mode=0o600)
    engine = create_engine(
        url,
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS},
        pool_size=pool_size,
        max_overflow=0,
        # Parameters are personal data, and errors are logged.
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _entry: ConnectionPoolEntry) -> None:  # noqa: ANN401 - sqlite3's, untyped here
        connection.isolation_level = None
        _enable_wal(connection)
        # With NORMAL, a power failure may lose commits of webhooks that were answered with 200.
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's, used for one call
        connection.exec_driver_sql(begin)

    return engine


def _enable_wal(connection: sqlite3.Connection) -> None:
    """Turn on write-ahead logging. If another process is creating the file, SQLite refuses without waiting."""
    deadline = time.monotonic() + SQLITE_BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(SQLITE_BUSY_POLL_SECONDS)
        else:
            return

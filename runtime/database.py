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
from typing import Any

import psycopg
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

SQLITE_BUSY_TIMEOUT_SECONDS = 8
"""How long SQLite waits for its write lock: far longer than any transaction here takes."""

SQLITE_BUSY_POLL_SECONDS = 0.02
"""How often is looked where SQLite itself does not wait."""

STATEMENT_TIMEOUT_SECONDS = 8
"""How long PostgreSQL may take over one statement: a webhook must be answered within Meld's 10 s."""

Insert = postgresql.Insert | sqlite.Insert


class Database:
    """The way to the rows. One per process; threads share it.

    Args:
        url: ``sqlite:///...`` or ``postgresql://...``.
        pool_size: How many connections to PostgreSQL may be open at once.
        clock: Given, all times are taken from it; by default PostgreSQL's own clock serves all processes, so that
            no machine's skew matters, and SQLite, which lives on one machine, is served by that machine's.
    """

    def __init__(self, url: str, *, pool_size: int = 10, clock: Clock | None = None) -> None:
        parsed = make_url(url)
        self.is_postgres = parsed.get_backend_name() == "postgresql"
        self._is_timed = clock is None and self.is_postgres
        self.clock = clock or utcnow
        self._statements: dict[tuple[Callable[..., Executable], tuple[object, ...]], Executable] = {}
        # SQLite has one writer at a time, and who waits for it sleeps and tries again; threads queue up better here.
        self._turn: AbstractContextManager[object] = nullcontext() if self.is_postgres else threading.Lock()
        if self.is_postgres:
            self._writer = _postgres_engine(parsed, pool_size)
            self._reader = self._writer
        else:
            self._writer = _sqlite_engine(parsed, "BEGIN IMMEDIATE", pool_size)
            self._reader = _sqlite_engine(parsed, "BEGIN", pool_size)

    @property
    def engine(self) -> Engine:
        """The engine that writes; for migrations and for the inbox, which speaks to the driver itself."""
        return self._writer

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that writes. It commits at the end, or rolls back and raises.

        Raises:
            OutOfReachError: Where the database does not answer.
        """
        with self._turn, self._session(self._writer) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that only reads.

        Raises:
            OutOfReachError: Where the database does not answer.
        """
        with self._session(self._reader) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Open a transaction that only reads, and sees all rows as they were when it first looked.

        Short, even so: as long as it is open, the database keeps what others overwrite.

        Raises:
            OutOfReachError: Where the database does not answer.
        """
        with self._session(self._reader) as session:
            if self.is_postgres:  # SQLite's transactions are so anyway
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        try:
            # Rows that are loaded are not looked at again after a statement changed them in the database; to find out
            # which of them to update costs as much as the statement.
            options = {"synchronize_session": False}
            with Session(engine, expire_on_commit=False, execution_options=options) as session:
                yield session
        except DBAPIError as error:
            raise translate_error(error) from error
        except PoolTimeoutError as error:
            raise OutOfReachError("All connections to the database are in use, and none came free.") from error

    def now(self, seconds: float = 0) -> ColumnElement[datetime]:
        """Return the present, or the time ``seconds`` from it, for use inside a statement."""
        if self._is_timed:
            return _postgres_now(seconds)
        # The clock is asked when the statement runs, which may have been built long before; by its name one parameter
        # stands for all mentions of one moment.
        moment = timedelta(seconds=seconds)
        return bindparam(f"now{seconds:+g}", type_=UTCDateTime(), callable_=lambda: self.clock() + moment)

    def run(
        self, session: Session, make: Callable[..., Executable], *fixed: object, **values: object
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run a statement that is built once and kept: to build one costs several times what sending it does.

        Args:
            session: An open transaction.
            make: Builds the statement from this database and what is fixed.
            fixed: What is the same each time, or nearly so: one statement is kept for each.
            values: The statement's parameters. Of one that changes rows, none may be named as a column.
        """
        statement = self._statements.get((make, fixed))
        if statement is None:
            statement = self._statements[make, fixed] = make(self, *fixed)
        return session.connection().execute(statement, values)

    def insert(self, table: type[SQLModel]) -> Insert:
        """Return the dialect's ``INSERT``, which knows ``on_conflict_do_...``."""
        return postgresql.insert(table) if self.is_postgres else sqlite.insert(table)

    def each(self, name: str) -> TableValuedAlias:
        """Return a list of texts that is a statement's parameter as rows, in its order: one column, ``value``."""
        if self.is_postgres:
            return func.unnest(bindparam(name, type_=ARRAY(String))).table_valued("value").render_derived()
        return func.json_each(bindparam(name, type_=JSON)).table_valued("value")

    def notify_expression(self, channel: str) -> ColumnElement[Any]:
        """Return what, selected by a statement, tells those who listen to a channel, with the commit and not before.

        SQLite has nobody who listens: there it is nothing.
        """
        return func.pg_notify(channel, "") if self.is_postgres else null()

    def connect_unpooled(self) -> psycopg.Connection[Any]:
        """Return a connection to PostgreSQL that is none of the pool's, in autocommit; the caller closes it.

        Raises:
            OutOfReachError: Where the database does not answer.
        """
        try:
            pooled = self._writer.connect()
        except DBAPIError as error:
            raise translate_error(error) from error
        except PoolTimeoutError as error:
            raise OutOfReachError("All connections to the database are in use, and none came free.") from error
        connection = pooled.connection.driver_connection
        pooled.detach()
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
    """Return what to raise: the error where the statement is wrong, ``OutOfReachError`` where the database is away."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    # To SQLite a wrong statement is an OperationalError, too; it bears this code and no other does. To PostgreSQL so is
    # what exceeds a limit of its own, as a value that is too long for an index.
    is_wrong = code == sqlite3.SQLITE_ERROR or (getattr(error.orig, "sqlstate", None) or "").startswith("54")
    is_away = (isinstance(error, OperationalError) and not is_wrong) or error.connection_invalidated
    if is_away or code == sqlite3.SQLITE_NOTADB:
        return OutOfReachError("The database does not answer. Is it running, and is DATABASE_URL right?")
    return error


def _postgres_engine(url: URL, pool_size: int) -> Engine:
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # see below
        pool_timeout=STATEMENT_TIMEOUT_SECONDS,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={
            "connect_timeout": 5,
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS}s -c timezone=UTC",
            "application_name": "meldwatch",
            # A machine that vanished must not hold a thread for the kernel's two hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": STATEMENT_TIMEOUT_SECONDS * 1000,
        },
    )


def _sqlite_engine(url: URL, begin: str, pool_size: int) -> Engine:
    if url.database is not None:
        # Made here, if it is new, for its owner alone: SQLite would leave that to the umask.
        with suppress(OSError):  # SQLite says it better
            Path(url.database).touch(mode=0o600)
    engine = create_engine(
        url,
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS},
        pool_size=pool_size,
        max_overflow=0,
        # What is bound to a statement is other people's data, and errors are logged.
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _entry: ConnectionPoolEntry) -> None:  # noqa: ANN401 - sqlite3's, untyped here
        connection.isolation_level = None
        _write_ahead(connection)
        # NORMAL may lose commits that were already answered with 200 when the power fails.
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's, used for one call
        connection.exec_driver_sql(begin)

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Have a file written ahead. Where another process is just making the file, SQLite does not wait, but refuses."""
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

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, select, update

from runtime.database import STATEMENT_TIMEOUT_SECONDS, Database
from runtime.errors import OutOfReachError
from schemas.tables import FeedCounterRow
from tests.support.processes import servers

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Database]:
    """A database in a file."""
    made = Database(sqlite_url)
    yield made
    made.close()


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    """A database on a server."""
    made = Database(postgres_url)
    yield made
    made.close()


def value(database: Database) -> int:
    with database.read() as session:
        return session.exec(select(FeedCounterRow.value)).one()


def set_value(session: Session, number: int) -> None:
    session.exec(update(FeedCounterRow).values(value=number))


def fail(session: Session) -> None:
    set_value(session, 7)
    raise LookupError


def pragma(session: Session, name: str) -> object:
    return session.connection().exec_driver_sql(f"PRAGMA {name}").scalar_one()


def shown(session: Session, name: str) -> object:
    return session.connection().exec_driver_sql(f"SHOW {name}").scalar_one()


def test_a_transaction_commits(database: Database) -> None:
    """A transaction without an exception is visible to others."""
    with database.write() as session:
        set_value(session, 7)

    assert value(database) == 7


def test_a_failed_transaction_rolls_back(database: Database) -> None:
    """A transaction that raises leaves nothing, and the exception is passed on."""
    with pytest.raises(LookupError), database.write() as session:
        fail(session)

    assert value(database) == 0


def test_a_failed_write_blocks_no_other(database: Database) -> None:
    """After a transaction that raised, the next one can write."""
    with pytest.raises(LookupError), database.write() as session:
        fail(session)

    with database.write() as session:
        set_value(session, 8)

    assert value(database) == 8


def test_uncommitted_changes_are_invisible(database: Database) -> None:
    """A reader is not blocked by a writer, and sees only committed rows."""
    with database.write() as session:
        set_value(session, 7)

        assert value(database) == 0


def test_loaded_rows_outlive_their_transaction(database: Database) -> None:
    """A loaded row can be used after the end of its transaction."""
    with database.read() as session:
        row = session.exec(select(FeedCounterRow)).one()

    assert (row.name, row.value) == ("feed", 0)


def test_a_wrong_statement_is_not_out_of_reach(database: Database) -> None:
    """An invalid statement is not mistaken for an unavailable database."""
    with pytest.raises(DBAPIError, match="no_such_table"), database.read() as session:
        session.exec(text("SELECT * FROM no_such_table"))


def test_writers_wait_for_each_other(database: Database) -> None:
    """Threads that read and write in one transaction lose no update, given a lock on the row."""

    def count() -> None:
        for _ in range(10):
            with database.write() as session:
                row = session.exec(select(FeedCounterRow).with_for_update()).one()
                row.value += 1

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert value(database) == 80


def test_an_insert_may_ignore_a_conflict(database: Database) -> None:
    """Both dialects can do nothing if the row exists."""
    insert = database.insert(FeedCounterRow).values(name="feed", value=9)
    with database.write() as session:
        session.exec(insert.on_conflict_do_nothing(index_elements=["name"]))

    assert value(database) == 0


def test_a_given_clock_is_the_source_of_all_times(database_url: str) -> None:
    """With a clock, all times are the clock's, to the microsecond, on both databases."""
    database = Database(database_url, clock=lambda: NOON)
    with database.read() as session:
        times = session.exec(select(database.now(), database.now(1.5), database.now(-90))).one()
    database.close()

    assert times == (NOON, NOON + timedelta(seconds=1.5), NOON - timedelta(seconds=90))


def test_without_a_clock_times_are_the_present(database: Database) -> None:
    """Without a clock, times are the present, timezone-aware, and advance within a transaction."""
    with database.read() as session:
        before = datetime.now(UTC) - timedelta(seconds=1)
        first, later = session.exec(select(database.now(), database.now(60))).one()
        second = session.exec(select(database.now())).one()
        after = datetime.now(UTC) + timedelta(seconds=1)

    assert before <= first < second <= after
    assert timedelta(seconds=59) < later - first < timedelta(seconds=61)


def test_postgres_uses_the_time_of_the_server(postgres: Database) -> None:
    """On PostgreSQL a statement has one time, which is the server's: clock skew of machines does not matter."""
    with postgres.read() as session:
        statement = select(postgres.now() == text("statement_timestamp()"), postgres.now(60) - postgres.now())
        is_servers, between = session.exec(statement).one()

    assert is_servers
    assert between == timedelta(seconds=60)


def test_sqlite_is_configured_for_durability(sqlite: Database) -> None:
    """Both engines use write-ahead logging, and sync to the disk before a commit returns."""
    for transaction in (sqlite.write, sqlite.read):
        with transaction() as session:
            assert (pragma(session, "journal_mode"), pragma(session, "synchronous")) == ("wal", 2)


def test_a_sqlite_writer_has_the_lock_from_the_beginning(sqlite: Database, sqlite_url: str) -> None:
    """No other transaction can write between the reads and the writes of a writing transaction."""
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), timeout=0)) as other:
        with sqlite.write() as session:
            session.exec(select(FeedCounterRow)).all()

            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        with sqlite.read() as session:
            session.exec(select(FeedCounterRow)).all()

            other.execute("BEGIN IMMEDIATE")


def test_a_sqlite_writer_waits_for_another_process(sqlite: Database, sqlite_url: str) -> None:
    """A writer waits while another process has locked the file, and then writes."""
    path = sqlite_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = threading.Event()

        def write() -> None:
            began.set()
            with sqlite.write() as session:
                set_value(session, 7)

        writer = threading.Thread(target=write)
        writer.start()
        began.wait()
        assert value(sqlite) == 0
        other.execute("COMMIT")
        writer.join()

    assert value(sqlite) == 7


def test_concurrent_creation_of_a_sqlite_file_waits(tmp_path: Path) -> None:
    """If two processes create the file at once, SQLite refuses one without waiting, so the code retries."""
    path = tmp_path / "new.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        closing(Database(f"sqlite:///{path}")) as database,
        ThreadPoolExecutor() as threads,
    ):
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE first (id INTEGER)")
        opening = threads.submit(tables_of, database)
        refused, _ = wait([opening], timeout=0.3)
        other.execute("COMMIT")

        assert (refused, opening.result(10)) == (set(), ["first"])


def tables_of(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.connection().execute(text("SELECT name FROM sqlite_master")).scalars())


def test_postgres_is_configured_with_timeouts(postgres: Database) -> None:
    """A statement ends within the time in which a webhook must be answered, and times are UTC."""
    with postgres.read() as session:
        assert shown(session, "statement_timeout") == f"{STATEMENT_TIMEOUT_SECONDS}s"
        assert shown(session, "TimeZone") == "UTC"
        assert shown(session, "application_name") == "meldwatch"


def test_a_file_that_cannot_be_opened_is_out_of_reach(tmp_path: Path) -> None:
    """A SQLite file in a missing folder raises the error for an unavailable database."""
    database = Database(f"sqlite:///{tmp_path}/no/such/folder/meld.db")
    with pytest.raises(OutOfReachError), database.write() as session:
        session.exec(select(FeedCounterRow)).all()
    database.close()


def test_a_file_that_is_no_database_is_out_of_reach(tmp_path: Path) -> None:
    """A file with other content raises an error, and is not overwritten."""
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 1_000)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(OutOfReachError), database.write() as session:
        session.exec(select(FeedCounterRow)).all()
    database.close()

    assert path.read_text() == "Dear reader, " * 1_000


def test_an_unreachable_server_is_out_of_reach() -> None:
    """If no server listens, the message says what to check, without the password."""
    database = Database(f"postgresql://me:hidden@127.0.0.1:{servers.free_ports(1)[0]}/name")

    with pytest.raises(OutOfReachError) as caught, database.write() as session:
        session.exec(select(FeedCounterRow)).all()

    assert str(caught.value) == "The database does not answer. Is it running, and is DATABASE_URL right?"
    database.close()


def test_a_restarted_server_is_used_again(test_run: servers.Run) -> None:
    """If the server dies, the open transaction fails; after its restart, the next one succeeds."""
    server = servers.start_postgres(test_run, "mortal")
    port = int(server.url.split(":")[2].split("/")[0])
    database = Database(server.url)

    def lose(session: Session) -> None:
        session.exec(text("CREATE TABLE lost (a INTEGER)"))
        server.kill()
        session.exec(text("SELECT 1"))

    with pytest.raises(OutOfReachError), database.write() as session:
        lose(session)
    with pytest.raises(OutOfReachError), database.write() as session:
        session.exec(text("SELECT 1"))

    server = servers.start_postgres(test_run, "mortal", port)

    with database.write() as session:
        assert session.exec(text("SELECT to_regclass('lost')")).scalar_one() is None
    database.close()
    server.stop()


def test_threads_wait_for_a_connection(postgres_url: str) -> None:
    """If there are more threads than connections, each waits for one."""
    database = Database(postgres_url, pool_size=1)
    values: list[int] = []
    threads = [threading.Thread(target=lambda: values.append(value(database))) for _ in range(4)]

    with database.write() as session:
        set_value(session, 7)
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()

    assert values == [7] * 4
    database.close()


def test_a_snapshot_sees_one_point_in_time(database: Database) -> None:
    """Commits of others after its first statement are invisible until it ends."""
    with database.snapshot() as session:
        before = session.exec(select(FeedCounterRow.value)).one()
        with database.write() as other:
            other.exec(update(FeedCounterRow).values(value=FeedCounterRow.value + 1))
        still = session.exec(select(FeedCounterRow.value)).one()
    with database.snapshot() as session:
        after = session.exec(select(FeedCounterRow.value)).one()

    assert (still, after) == (before, before + 1)


def test_a_notification_is_sent_on_commit(postgres: Database) -> None:
    """It is sent not earlier, and not at all after a rollback."""
    with closing(postgres.connect_unpooled()) as listener:
        listener.execute("LISTEN changes")
        with suppress(ZeroDivisionError), postgres.write() as session:
            session.exec(select(postgres.notify_expression("changes"))).one()
            _ = 1 / 0
        with postgres.write() as session:
            session.exec(select(postgres.notify_expression("changes"))).one()
            before = list(listener.notifies(timeout=0.2))
        after = [heard.channel for heard in listener.notifies(timeout=5, stop_after=1)]

    assert (before, after) == ([], ["changes"])


def test_a_notification_has_no_effect_on_sqlite(sqlite: Database) -> None:
    """The same statement runs there without an effect."""
    with sqlite.read() as session:
        assert session.exec(select(sqlite.notify_expression("changes"))).one() is None


def test_an_unpooled_connection_does_not_count_for_the_pool(postgres_url: str) -> None:
    """It stays open as long as it is used, and a pool of one connection still has one."""
    small = Database(postgres_url, pool_size=1)
    with closing(small.connect_unpooled()) as apart, small.read() as session:
        assert [session.exec(select(1)).one(), apart.execute("SELECT 1").fetchone()] == [1, (1,)]
    small.close()


def test_an_unpooled_connection_to_no_server_is_out_of_reach() -> None:
    """It raises the same error as the pool."""
    with pytest.raises(OutOfReachError):
        Database("postgresql://nobody@127.0.0.1:1/nothing").connect_unpooled()

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel, col, select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.clock import utcnow
from runtime.database import Database
from runtime.metrics import Metrics
from runtime.net.meld_client import MeldClient
from runtime.queues import circuit_breaker, reads
from schemas.events import DATA_MODELS
from schemas.events import Event as CloudEvent
from schemas.meld.connection import Snapshot
from schemas.meld.read_outcome import Found
from schemas.tables import ConnectionRow, EventRow, ObservationRow, ReadRequestRow
from tests.meldwatch.process.raw_http_client import serving
from tests.support.polling import eventually
from tests.support.scripted_meld import ScriptedReader, document, found
from tests.support.webhook_factory import body, store
from workers.refetch.bulk_import import BulkImport
from workers.refetch.commit import CommitResult, commit_read
from workers.refetch.lease import ReadLease, acquire_lease
from workers.refetch.mirror_row import Reading
from workers.refetch.refetch import MeldReader, Refetcher

BEGAN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def rows(database: Database, table: type[Any], *order: Any) -> list[Any]:
    with database.read() as session:
        return list(session.exec(select(table).order_by(*order)).all())


def events(database: Database) -> list[EventRow]:
    return rows(database, EventRow, col(EventRow.position))


def mirror(database: Database, connection_id: str = "c1") -> ConnectionRow:
    with database.read() as session:
        return session.exec(select(ConnectionRow).where(ConnectionRow.id == connection_id)).one()


def refetcher_on(database: Database, reader: MeldReader, token: Callable[[], str]) -> Refetcher:
    """Make a refetcher as a process would."""
    return Refetcher(
        database=database,
        reader=reader,
        notify_workers=lambda _ids: None,
        notify_dispatchers=lambda _ids: None,
        clock=utcnow,
        lease_seconds=30,
        new_token=token,
        jitter=lambda: 0.0,
        metrics=Metrics(),
        notify_feed=lambda: None,
    )


def request_reads(database: Database, *ids: str) -> None:
    with database.write() as session:
        reads.request_reads(database, session, ids, "operator")


def committed(
    database: Database, snapshot: Snapshot | None, began_at: datetime = BEGAN, id_: str = "c1"
) -> CommitResult:
    """Lease a connection and commit a reading of it."""
    request_reads(database, id_)
    with database.write() as session:
        lease = acquire_lease(database, session, id_, token="t", lease_seconds=30)
    assert lease is not None
    with database.write() as session:
        return commit_read(database, session, lease, Reading(snapshot, began_at, began_at + timedelta(seconds=1)))


def read(database: Database, outcome: Found, began_at: datetime = BEGAN) -> CommitResult:
    return committed(database, outcome.snapshot, began_at, outcome.snapshot.id)


# The feed: every event once, in the order of commits, without a gap.


class Tail:
    """A reader that follows the feed, as a consumer would: ``position > last``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last = 0
        self.seen: list[int] = []

    def look(self) -> None:
        """Read what is new."""
        with self._database.read() as session:
            new = (
                select(EventRow.position)
                .where(col(EventRow.position) > self._last)
                .order_by(col(EventRow.position))
                .limit(7)
            )
            positions = session.exec(new).all()
        self.seen += positions
        self._last = max([self._last, *positions])


class Appender:
    """A worker with connections of its own, each of which changes with every read."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._ids = [f"{name}-{number}" for number in range(2)]
        self._reader = ScriptedReader()
        tokens = itertools.count()
        self._refetcher = refetcher_on(database, self._reader, lambda: f"{name} {next(tokens)}")

    def append(self, rounds: int) -> None:
        """Have each connection change so many times."""
        for number in range(rounds):
            for id_ in self._ids:
                self._reader.answers[id_] = found(id_, f"STATUS_{number}")
                request_reads(self._database, id_)
                self._refetcher.refetch(id_)


def together(*works: Callable[[], object]) -> list[BaseException]:
    """Run works at once, each in a thread; return what they raised."""
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - every error is a result
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_readers_of_a_busy_feed_miss_nothing_and_see_nothing_twice(database_url: str) -> None:
    """While several workers append, each reader of the feed sees positions 1, 2, 3 and so on."""
    database = Database(database_url, pool_size=20)
    # SQLite has one writer at a time, so that fewer show as much.
    workers, rounds = (8, 6) if database.is_postgres else (3, 3)
    total = workers * 2 * rounds
    is_over = threading.Event()
    tails = [Tail(database) for _ in range(3)]

    def follow(tail: Tail) -> None:
        while not is_over.is_set():
            tail.look()
        tail.look()

    def append_all() -> None:
        appenders = [Appender(database, f"c{number}") for number in range(workers)]
        try:
            errors.extend(together(*[lambda each=each: each.append(rounds) for each in appenders]))
        finally:
            is_over.set()

    errors: list[BaseException] = []
    errors += together(append_all, *[lambda tail=tail: follow(tail) for tail in tails])
    for tail in tails:
        while len(tail.seen) < total and not errors:
            tail.look()
    sequences: dict[str, list[int]] = {}
    for event in events(database):
        sequences.setdefault(event.connection_id, []).append(event.sequence)
    database.close()

    assert errors == []
    assert [tail.seen for tail in tails] == [list(range(1, total + 1))] * 3
    assert list(sequences.values()) == [list(range(1, rounds + 1))] * (workers * 2)


def commit_and_fail(database: Database, lease: ReadLease, snapshot: Snapshot) -> None:
    """Commit a reading in a transaction that is rolled back."""
    with database.write() as session:
        commit_read(database, session, lease, Reading(snapshot, BEGAN, BEGAN))
        raise ZeroDivisionError


def test_a_rolled_back_read_leaves_no_gap(database: Database) -> None:
    """Positions and sequences are allocated with the commit: a rollback uses none."""
    read(database, found("c1"))
    request_reads(database, "c2")
    with database.write() as session:
        lease = acquire_lease(database, session, "c2", token="t", lease_seconds=30)
    assert lease is not None
    with pytest.raises(ZeroDivisionError):
        commit_and_fail(database, lease, found("c2").snapshot)
    read(database, found("c3"))

    assert [(event.connection_id, event.position, event.sequence) for event in events(database)] == [
        ("c1", 1, 1),
        ("c3", 2, 1),
    ]


def test_a_status_and_a_primary_of_one_read_follow_each_other(database: Database) -> None:
    """One read may emit both, the status first, at adjacent positions."""
    read(database, found("c1", "ACTIVE", activeDuplicateConnectionId="c1", duplicateConnectionIds=["c2"]))
    after = found(
        "c1",
        "PARTIALLY_ACTIVE",
        statusReason="INACTIVE_DUPLICATE",
        activeDuplicateConnectionId="c2",
        duplicateConnectionIds=["c2"],
    )
    types = read(database, after, BEGAN + timedelta(minutes=1)).event_types

    told = [(event.type, event.position, event.sequence, event.observation_id) for event in events(database)][1:]
    assert told == [("connection.status_changed", 2, 2, 2), ("connection.primary_duplicate_moved", 3, 3, 2)]
    assert types == ("connection.status_changed", "connection.primary_duplicate_moved")


def test_events_have_the_shape_that_is_promised(database: Database) -> None:
    """Each is a CloudEvent whose data matches the schema of its type and shows the connection after the change."""
    group = {"activeDuplicateConnectionId": "c2", "duplicateConnectionIds": ["c2", "c3"]}
    read(database, found("c1"))
    read(database, found("c1", statusReason="ACCESS_EXPIRING_SOON"), BEGAN + timedelta(minutes=1))
    read(database, found("c1", "DEGRADED", **group), BEGAN + timedelta(minutes=2))

    shown = [CloudEvent.from_row(row) for row in events(database)]
    for event in shown:
        data = DATA_MODELS[event.type].model_validate(event.data)
        assert (data.connection.id, f"{data.connection.sequence:08d}") == (event.subject, event.sequence)
        assert event.source == "urn:meld:account:acct"
    assert [event.type.removeprefix("connection.") for event in shown] == [
        "status_changed",
        "status_reason_changed",
        "status_changed",
        "primary_duplicate_moved",
    ]
    assert shown[-1].data["duplicate_ids"] == ["c2", "c3"]


def test_the_same_reading_has_the_same_event_ids_everywhere(test_databases: tuple[Database, Database]) -> None:
    """An id is derived from what was read and when: another database gives the same change the same id."""
    told = []
    for database in test_databases:
        read(database, found("c1"))
        read(database, found("c1", "DEGRADED"), BEGAN + timedelta(minutes=1))
        read(database, found("c2"))
        told.append([event.id for event in events(database)])

    assert told[0] == told[1]
    assert len(set(told[0])) == 3


@pytest.fixture
def test_databases(sqlite_url: str, postgres_url: str) -> Iterator[tuple[Database, Database]]:
    """One database of each kind."""
    databases = Database(sqlite_url), Database(postgres_url)
    yield databases
    for database in databases:
        database.close()


def test_the_same_state_again_is_another_event(database: Database) -> None:
    """A status that comes back later is a change of its own, with an id of its own."""
    for minute, status in enumerate(["ACTIVE", "DEGRADED", "ACTIVE", "DEGRADED"]):
        read(database, found("c1", status), BEGAN + timedelta(minutes=minute))

    ids = [event.id for event in events(database)]
    assert len(set(ids)) == 4
    assert len(rows(database, ObservationRow)) == 4


# One commit: state, observation, events, webhooks and job, or nothing of them.

FORBID = {
    True: (
        "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'forbidden'; END $$",
        "CREATE TRIGGER forbid BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION forbid()",
    ),
    False: ("CREATE TRIGGER forbid BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'forbidden'); END",),
}


def test_state_and_events_commit_together(database: Database) -> None:
    """If an event cannot be written, the mirror and the observations are unchanged, and the request stays pending."""
    read(database, found("c1"))
    with database.write() as session:
        for statement in FORBID[database.is_postgres]:
            session.execute(text(statement))

    with pytest.raises(DBAPIError, match="forbidden"):
        read(database, found("c1", "DEGRADED"), BEGAN + timedelta(minutes=1))

    (job,) = rows(database, ReadRequestRow)
    assert (mirror(database).status, mirror(database).checked_at) == ("ACTIVE", BEGAN)
    assert (job.requested, job.completed, job.lease_token) == (2, 1, "t")
    assert (len(rows(database, ObservationRow)), len(events(database))) == (1, 1)


# What is kept of Meld's answer.


def test_null_absent_and_empty_mean_the_same(database: Database) -> None:
    """An answer with nothing but an id and a status is a connection; null and [] add nothing to it."""
    fields = ("statusReason", "activeDuplicateConnectionId", "duplicateConnectionIds", "products", "regions")
    answers = (
        {"id": "c1", "status": "ACTIVE"},
        {"id": "c1", "status": "ACTIVE", **dict.fromkeys(fields)},
        {"id": "c1", "status": "ACTIVE", "duplicateConnectionIds": [], "products": [], "serviceProviderDetails": {}},
    )
    shown = []
    for minute, answer in enumerate(answers):
        committed(database, Snapshot.from_document(answer), BEGAN + timedelta(minutes=minute))
        shown.append(mirror(database).model_dump(exclude={"document", "digest", "observed_at", "checked_at"}))

    assert shown[0] == shown[1] == shown[2]
    assert (shown[0]["primary_duplicate_id"], shown[0]["duplicate_ids"], shown[0]["customer_id"]) == (None, [], None)
    assert [event.type for event in events(database)] == ["connection.status_changed"]


def test_strange_values_are_left_out_and_kept_in_the_document(database: Database) -> None:
    """What has a wrong type is null in the mirror; the answer itself is kept whole."""
    strange = document(
        "c1", customerId=17, institutionId={}, products="BALANCES", regions=[1, "US"], createdAt="soon", more=[1]
    )
    committed(database, Snapshot.from_document(strange))

    row = mirror(database)
    assert (row.customer_id, row.institution_id, row.products, row.regions) == (None, None, [], ["US"])
    assert (row.created_at, row.document["more"], row.document["createdAt"]) == (None, [1], "soon")


@pytest.mark.parametrize("text_", ["9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00+14:00"])
def test_a_time_beyond_the_calendar_is_left_out(database: Database, text_: str) -> None:
    """A time that no database gives back does not make a connection unreadable."""
    committed(database, Snapshot.from_document(document("c1", createdAt=text_, successfullyAggregatedAt=text_)))

    assert (mirror(database).created_at, mirror(database).aggregated_at) == (None, None)


@pytest.mark.parametrize(
    ("listed", "kept"),
    [
        (["c2", "c3"], ["c2", "c3"]),
        (["c3", "c2"], ["c3", "c2"]),
        (["c1", "c2"], ["c2"]),
        (["c2", "c2", "c2"], ["c2"]),
        (["", "c2"], ["c2"]),
        ([], []),
        (None, []),
    ],
)
def test_duplicates_are_the_others_in_melds_order(
    database: Database, listed: list[str] | None, kept: list[str]
) -> None:
    """A list without the connection itself, each member once."""
    read(database, found("c1", duplicateConnectionIds=listed))

    assert mirror(database).duplicate_ids == kept


def test_unknown_statuses_and_reasons_are_kept_as_they_come(database: Database) -> None:
    """Meld's vocabulary is open."""
    read(database, found("c1", "NEVER_HEARD_OF", statusReason="nor of this 🔑"))

    assert (mirror(database).status, mirror(database).status_reason) == ("NEVER_HEARD_OF", "nor of this 🔑")
    assert events(database)[0].data["current"] == {"status": "NEVER_HEARD_OF", "status_reason": "nor of this 🔑"}


def test_a_tombstone_keeps_what_was_known(database: Database) -> None:
    """The status is DELETED, the group is empty, the other fields stay; the former members are read."""
    group = {"activeDuplicateConnectionId": "c1", "duplicateConnectionIds": ["c2"]}
    read(database, found("c2", activeDuplicateConnectionId="c1", duplicateConnectionIds=["c1"]))
    read(database, found("c1", institutionName="Chase", products=["BALANCES"], **group))
    with database.write() as session:
        # What the reads above led to is done.
        for job in session.exec(select(ReadRequestRow)).all():
            job.completed, job.due_at, job.woken_at = job.requested, None, None

    outcome = committed(database, None, BEGAN + timedelta(minutes=1))

    row = mirror(database)
    assert (row.status, row.primary_duplicate_id, row.duplicate_ids) == ("DELETED", None, [])
    assert (row.institution_name, row.products, row.customer_id) == ("Chase", ["BALANCES"], "cust")
    assert (outcome.connection_ids, outcome.event_types) == (("c2",), ("connection.status_changed",))


# Secrets.

SECRETS = (
    "access-sandbox-de3ce8ef",
    "s3cr3t-value",
    "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl",
    "Bearer abcdef123456",
    "7391-pin",
)


def secretive(id_: str) -> dict[str, Any]:
    return document(
        id_,
        serviceProviderDetails={
            "serviceProvider": "PLAID",
            "itemId": "item-is-kept",
            "accessToken": "access-sandbox-de3ce8ef",
            "nested": [{"client_secret": "s3cr3t-value", "innocent": "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"}],
            "headers": {"Authorization": "Bearer abcdef123456", "note": "Bearer abcdef123456"},
            "PIN": "7391-pin",
        },
        unknownField={"apiKey": "s3cr3t-value", "kept": "yes"},
    )


def everything(database: Database) -> str:
    """Return all that the database holds, as text."""
    with database.read() as session:
        return json.dumps(
            [
                [list(map(repr, row)) for row in session.execute(select(*table.columns)).all()]
                for table in SQLModel.metadata.sorted_tables
            ]
        )


@pytest.fixture
def meld() -> Iterator[MeldClient]:
    """The real client of a Meld whose answers bear credentials."""

    async def answer(request: Request) -> Response:
        return JSONResponse(secretive(request.path_params["id"]))

    app = Starlette(routes=[Route("/bank-linking/connections/{id}", answer)])
    with serving(app) as url:
        client = MeldClient(
            url=url, authorization=SecretStr("BASIC key"), version=None, timeout_seconds=4, connections=2
        )
        yield client
        client.close()


def test_no_secret_of_an_answer_is_stored(database: Database, meld: MeldClient) -> None:
    """From the wire to every table: credentials are gone wherever they were, the rest stays."""
    numbers = itertools.count()
    refetcher = refetcher_on(database, meld, lambda: f"token {next(numbers)}")
    store(database, body("c1"))

    refetcher.refetch("c1")

    held = everything(database)
    assert [secret for secret in SECRETS if secret in held] == []
    assert mirror(database).service_provider_details["itemId"] == "item-is-kept"
    assert mirror(database).service_provider == "PLAID"
    assert mirror(database).document["unknownField"] == {"kept": "yes"}
    assert events(database)[0].data["connection"]["service_provider_details"]["itemId"] == "item-is-kept"


# Locks: the counter is taken last.


def waiting(url: str) -> int:
    """Return how many sessions of the database wait for a lock."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_page_of_the_list_does_not_hold_up_a_read(postgres_url: str) -> None:
    """A bulk import locks the feed counter after all other rows, so that a waiting import delays no read's commit."""
    database = Database(postgres_url)
    request_reads(database, "read")
    page = [found("first").snapshot, found("second").snapshot]
    with database.write() as session:
        reads.lock_requests(database, session, ["first", "second"])

    def take_page() -> None:
        adopt = BulkImport(database=database)
        with database.write() as session:
            adopt(session, page, BEGAN, BEGAN)

    def read_one() -> None:
        eventually(lambda: waiting(postgres_url) == 1)
        with database.write() as session:
            circuit_breaker.record_failure(session, "another", is_systemic=True)
        refetcher_on(database, ScriptedReader(), lambda: "token").refetch("read")
        holder.rollback()

    with psycopg.connect(postgres_url) as holder:
        # The page waits here until the read is done.
        holder.execute("SELECT 1 FROM read_request WHERE connection_id = 'second' FOR UPDATE")
        errors = together(take_page, read_one)
    shown = [(event.connection_id, event.position) for event in events(database)]
    database.close()

    assert errors == []
    assert shown == [("read", 1), ("first", 2), ("second", 3)]

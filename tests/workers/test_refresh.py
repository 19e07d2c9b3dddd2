import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from runtime import gate, jobs
from runtime.database import Database
from schemas import tables
from schemas.api import state_of
from schemas.events import Event
from schemas.meld import Absent, Outcome, Refused, Throttled, Unavailable, Unreadable
from schemas.tables import Connection, Gate, Job, Observation, Webhook
from tests.inbox import DELETED, body, store
from tests.workers.meldlike import ScriptedReader, found, refresh_on
from workers.follow import MAX_DEPTH, RECHECK_SECONDS, SETTLE_SECONDS
from workers.policy import MAX_ATTEMPTS
from workers.refresh import Refresh


def all_rows(database: Database, table: type[Any]) -> Sequence[Any]:
    with database.read() as session:
        return session.exec(select(table)).all()


def job_of(database: Database, connection_id: str) -> Job:
    with database.read() as session:
        return session.exec(select(Job).where(Job.connection_id == connection_id)).one()


def events_of(database: Database) -> list[Event]:
    with database.read() as session:
        rows = session.exec(select(tables.Event).order_by(col(tables.Event.position))).all()
        return [Event.from_row(row) for row in rows]


def mirror_of(database: Database, connection_id: str) -> Connection:
    with database.read() as session:
        return session.get_one(Connection, connection_id)


def make_due(database: Database) -> None:
    """Let the time pass that jobs and pauses wait for: move them into the past, and webhooks a little."""
    past = datetime.now(UTC) - timedelta(hours=1)
    settled = datetime.now(UTC) - timedelta(seconds=SETTLE_SECONDS + 1)
    with database.write() as session:
        session.exec(update(Job).where(col(Job.due_at).is_not(None)).values(due_at=past))
        session.exec(update(Gate).where(col(Gate.paused_until).is_not(None)).values(paused_until=past))
        session.exec(update(Webhook).where(col(Webhook.received_at) > settled).values(received_at=settled))


def states_of(database: Database) -> list[str]:
    with database.read() as session:
        return [state_of(row) for row in session.exec(select(Webhook).order_by(col(Webhook.id))).all()]


def test_a_webhook_leads_to_a_mirror_and_an_event(database: Database, refresh: Refresh) -> None:
    """One webhook of a new connection gives one row of the mirror and one event, with nothing before it."""
    store(database, body("c1", event_id="e1", newStatus="ACTIVE"))

    refresh.refresh("c1")

    (event,) = events_of(database)
    assert (event.type, event.sequence, event.position) == ("connection.status_changed", "00000001", 1)
    assert event.data["previous"] is None
    assert event.data["current"] == {"status": "ACTIVE", "status_reason": None}
    assert event.data["cause"]["trigger"] == "webhook"
    assert event.data["cause"]["webhook_event_ids"] == ["e1"]
    assert event.data["connection"]["sequence"] == 1
    assert states_of(database) == ["processed"]
    (connection,) = all_rows(database, Connection)
    assert (connection.status, connection.sequence) == ("ACTIVE", 1)


def test_what_a_replay_changes_bears_its_id(database: Database, refresh: Refresh, reader: ScriptedReader) -> None:
    """An event of a read that a replay asked for tells so; of every other read nothing is said of replays."""
    store(database, body("c1"))
    refresh.refresh("c1")
    reader.answers["c1"] = found("c1", "DEGRADED")
    with database.write() as session:
        jobs.raise_jobs(database, session, ["c1"], "replay", replay_id="r1")
    refresh.refresh("c1")

    first, second = (event.data["cause"] for event in events_of(database))
    observed = [(each.trigger, each.replay_id) for each in all_rows(database, Observation)]
    assert "replay_id" not in first
    assert (second["trigger"], second["webhook_event_ids"], second["replay_id"]) == ("replay", [], "r1")
    assert observed == [("webhook", None), ("replay", "r1")]


def test_a_read_that_saw_nothing_new_only_notes_the_time(
    database: Database, refresh: Refresh, reader: ScriptedReader
) -> None:
    """A second read with the same answer writes no observation and no event, and moves ``checked_at``."""
    store(database, body("c1"))
    refresh.refresh("c1")
    (first,) = all_rows(database, Connection)
    store(database, body("c1"))

    refresh.refresh("c1")

    (second,) = all_rows(database, Connection)
    assert second.checked_at > first.checked_at
    assert second.observed_at == first.observed_at
    assert reader.reads["c1"] == 2
    assert len(all_rows(database, Observation)) == 1
    assert len(events_of(database)) == 1


def test_status_and_reason_changes_are_told_apart(database: Database, refresh: Refresh, reader: ScriptedReader) -> None:
    """Another status is one event; the same status with another reason is the other."""
    for answer in (
        found("c1", "ACTIVE"),
        found("c1", "RECONNECT_REQUIRED", statusReason="LOGIN_REQUIRED"),
        found("c1", "RECONNECT_REQUIRED", statusReason="OTHER"),
    ):
        reader.answers["c1"] = answer
        store(database, body("c1"))
        refresh.refresh("c1")

    told = [(event.type, event.data["previous"], event.data["current"]) for event in events_of(database)]
    active = {"status": "ACTIVE", "status_reason": None}
    login = {"status": "RECONNECT_REQUIRED", "status_reason": "LOGIN_REQUIRED"}
    other = {"status": "RECONNECT_REQUIRED", "status_reason": "OTHER"}
    assert told == [
        ("connection.status_changed", None, active),
        ("connection.status_changed", active, login),
        ("connection.status_reason_changed", login, other),
    ]


def test_nothing_is_read_where_nothing_is_owed(database: Database, refresh: Refresh, reader: ScriptedReader) -> None:
    """A message for a connection that owes nothing costs no read of Meld."""
    refresh.refresh("c1")

    assert reader.reads["c1"] == 0


def test_a_burst_costs_two_reads(database: Database, refresh: Refresh, reader: ScriptedReader) -> None:
    """A hundred webhooks, ninety-nine of them during the first read, cost one more read."""

    def burst() -> Outcome:
        reader.answers["c1"] = found("c1")
        store(database, *(body("c1") for _ in range(99)))
        refresh.refresh("c1")
        return found("c1")

    store(database, body("c1"))
    reader.answers["c1"] = burst

    refresh.refresh("c1")
    refresh.refresh("c1")
    refresh.refresh("c1")

    assert reader.reads["c1"] == 2
    assert states_of(database) == ["processed"] * 100


def test_a_webhook_stored_during_a_read_calls_the_worker_again(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """A hint that comes while a read is under way is not covered by it, and is not left to the clock."""

    def late() -> Outcome:
        assert store(database, body("c1")) == []
        return found("c1")

    store(database, body("c1"))
    reader.answers["c1"] = late

    refresh.refresh("c1")

    assert calls == ["c1"]
    assert states_of(database) == ["processed", "pending"]


def test_an_older_read_never_overwrites_a_newer_one(
    database: Database, make_refresh: Callable[[], Refresh], reader: ScriptedReader
) -> None:
    """A slow read whose lease ended is thrown away when a newer one was written: 50 of 50 times."""
    stale = 0
    for number in range(50):
        connection_id = f"c{number}"
        older, newer = make_refresh(), make_refresh()

        def overtaken(connection_id: str = connection_id, newer: Refresh = newer) -> Outcome:
            # Read while the old state held; before it is written, the lease ends and another reads the new state.
            with database.write() as session:
                past = datetime.now(UTC) - timedelta(seconds=1)
                session.exec(update(Job).where(col(Job.connection_id) == connection_id).values(leased_until=past))
            reader.answers[connection_id] = found(connection_id, "RECONNECT_REQUIRED")
            newer.refresh(connection_id)
            return found(connection_id, "ACTIVE")

        store(database, body(connection_id))
        reader.answers[connection_id] = overtaken
        older.refresh(connection_id)
        with database.read() as session:
            row = session.get(Connection, connection_id)
            stale += row is None or row.status != "RECONNECT_REQUIRED"

    assert stale == 0


def test_one_read_at_a_time(database: Database, make_refresh: Callable[[], Refresh], reader: ScriptedReader) -> None:
    """Sixteen workers called at once for one connection read it once."""
    store(database, body("c1"))
    workers = [threading.Thread(target=make_refresh().refresh, args=("c1",)) for _ in range(16)]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert reader.reads["c1"] == 1


@pytest.mark.parametrize(
    "failure", [Absent(), Unavailable("Meld answered 500"), Unreadable("the answer is not JSON")], ids=repr
)
def test_a_connection_is_given_up_after_twelve_attempts(
    database: Database, refresh: Refresh, reader: ScriptedReader, failure: Outcome
) -> None:
    """What fails for one connection is tried twelve times; then its webhook is failed and the mirror is untouched."""
    store(database, body("c1", newStatus="ACTIVE"))
    reader.answers["c1"] = failure

    for _ in range(MAX_ATTEMPTS):
        make_due(database)
        refresh.refresh("c1")

    job = job_of(database, "c1")
    assert reader.reads["c1"] == MAX_ATTEMPTS
    assert job.failed_at is not None
    assert job.error
    assert states_of(database) == ["failed"]
    assert all_rows(database, Connection) == []


def test_a_new_webhook_revives_a_connection_that_was_given_up(
    database: Database, refresh: Refresh, reader: ScriptedReader
) -> None:
    """After the twelfth attempt the next webhook starts anew, and its read settles the failed webhooks as well."""
    store(database, body("c1"))
    reader.answers["c1"] = Absent()
    for _ in range(MAX_ATTEMPTS):
        make_due(database)
        refresh.refresh("c1")
    reader.answers["c1"] = found("c1")

    called = store(database, body("c1"))
    refresh.refresh("c1")

    assert called == ["c1"]
    assert states_of(database) == ["processed", "processed"]
    assert job_of(database, "c1").failed_at is None


@pytest.mark.parametrize("failure", [Throttled(None), Throttled(7), Refused("Meld answered 401")], ids=repr)
def test_what_speaks_of_meld_pauses_all_reads_and_costs_no_attempt(
    database: Database, refresh: Refresh, reader: ScriptedReader, failure: Outcome
) -> None:
    """During a pause nobody reads; afterwards one probes, and its good answer opens the gate for all."""
    store(database, body("c1"), body("c2"))
    reader.answers["c1"] = failure
    for _ in range(MAX_ATTEMPTS + 2):
        make_due(database)
        refresh.refresh("c1")
    reader.answers["c1"] = found("c1")

    refresh.refresh("c2")
    assert reader.reads["c2"] == 0
    assert job_of(database, "c1").attempts == 0
    make_due(database)
    refresh.refresh("c1")
    refresh.refresh("c2")

    with database.read() as session:
        assert gate.current(session) is None
    assert states_of(database) == ["processed", "processed"]


def test_an_outage_kills_no_connection(database: Database, refresh: Refresh, reader: ScriptedReader) -> None:
    """When one connection after another fails, that is Meld: reads pause, and nobody runs out of attempts."""
    ids = [f"c{number}" for number in range(10)]
    store(database, *(body(id_) for id_ in ids))
    for id_ in ids:
        reader.answers[id_] = Unavailable("Meld answered 503")

    for _ in range(3 * MAX_ATTEMPTS):
        make_due(database)
        for id_ in ids:
            refresh.refresh(id_)
    for id_ in ids:
        reader.answers[id_] = found(id_)
    make_due(database)
    for id_ in ids:
        refresh.refresh(id_)

    assert states_of(database) == ["processed"] * 10


def test_a_deleted_connection_that_is_gone_becomes_a_tombstone(
    database: Database, refresh: Refresh, reader: ScriptedReader
) -> None:
    """DELETED announced, then 404: one DELETED status event, and the row stays readable."""
    store(database, body("c1"))
    refresh.refresh("c1")
    reader.answers["c1"] = Absent()

    for _ in range(2):
        store(database, body("c1", DELETED))
        refresh.refresh("c1")

    (connection,) = all_rows(database, Connection)
    assert (connection.status, connection.customer_id) == ("DELETED", "cust")
    assert [event.data["current"]["status"] for event in events_of(database)] == ["ACTIVE", "DELETED"]
    assert states_of(database) == ["processed"] * 3


def test_an_end_is_not_taken_back_by_an_answer_that_is_older(database: Database, reader: ScriptedReader) -> None:
    """Close behind its deletion Meld may still show it: that is asked for again, and believed when it stays so."""
    now = datetime.now(UTC)
    refresh = refresh_on(database, reader, clock=lambda: now)
    statuses = []
    for hint, answer in ((DELETED, Absent()), (DELETED, found("c1")), (DELETED, Absent()), ("OTHER", found("c1"))):
        store(database, body("c1", hint))
        reader.answers["c1"] = answer
        refresh.refresh("c1")
        statuses.append((mirror_of(database, "c1").status, job_of(database, "c1").trigger))
    now += timedelta(seconds=SETTLE_SECONDS + 1)
    make_due(database)
    refresh.refresh("c1")

    assert statuses == [("DELETED", "webhook"), ("DELETED", "recheck"), ("DELETED", "webhook"), ("DELETED", "recheck")]
    assert mirror_of(database, "c1").status == "ACTIVE"
    assert [event.data["current"]["status"] for event in events_of(database)] == ["DELETED", "ACTIVE"]


def test_a_deleted_connection_never_seen_becomes_a_tombstone(
    database: Database, refresh: Refresh, reader: ScriptedReader
) -> None:
    """A DELETED webhook of a connection that was never read, then 404: a tombstone with the account that it named."""
    reader.answers["c1"] = Absent()
    store(database, body("c1", DELETED))

    refresh.refresh("c1")

    (connection,) = all_rows(database, Connection)
    (event,) = events_of(database)
    assert (connection.status, connection.account_id) == ("DELETED", "acct")
    assert event.source == "urn:meld:account:acct"


def test_siblings_are_read_again_when_the_primary_moves(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """A member whose primary moved raises the members whose stored view differs; the role of each is told once."""

    def group(primary: str) -> None:
        for id_ in ("a", "b", "c"):
            others = [other for other in ("a", "b", "c") if other != id_]
            reader.answers[id_] = found(id_, activeDuplicateConnectionId=primary, duplicateConnectionIds=others)

    group("a")
    store(database, *(body(id_) for id_ in ("a", "b", "c")))
    for id_ in ("a", "b", "c"):
        refresh.refresh(id_)
    calls.clear()
    group("b")

    store(database, body("a"))
    refresh.refresh("a")
    while calls:
        refresh.refresh(calls.pop(0))

    moves = [event for event in events_of(database) if event.type == "connection.primary_duplicate_moved"]
    roles = {event.subject: event.data["role"] for event in moves}
    assert roles == {"a": "lost_primary", "b": "became_primary", "c": "followed"}
    assert len(moves) == 3


def test_a_read_that_contradicts_its_hint_is_checked_again(
    database: Database, refresh: Refresh, reader: ScriptedReader
) -> None:
    """A hint that says another status than the read is rechecked four times, then left; a new hint starts anew."""
    store(database, body("c1", newStatus="RECONNECT_REQUIRED"))

    delays = []
    for _ in range(len(RECHECK_SECONDS) + 1):
        refresh.refresh("c1")
        due_at = job_of(database, "c1").due_at
        delays.append(round((due_at - datetime.now(UTC)).total_seconds()) if due_at else None)
        make_due(database)

    assert delays == [5, 30, 120, 600, None]
    assert reader.reads["c1"] == 5
    store(database, body("c1", newStatus="RECONNECT_REQUIRED"))
    refresh.refresh("c1")
    assert job_of(database, "c1").rechecks == 1


def test_an_old_hint_that_comes_late_is_not_held_against_a_read(
    database: Database, refresh: Refresh, reader: ScriptedReader
) -> None:
    """Newest is what Meld says happened last, whatever arrived last."""
    old, new = body("c1", newStatus="RECONNECT_REQUIRED"), body("c1", newStatus="ACTIVE")
    store(database, new)
    refresh.refresh("c1")
    make_due(database)

    store(database, old)
    refresh.refresh("c1")

    assert job_of(database, "c1").due_at is None


def test_claims_are_given_back_when_a_process_ends(
    database: Database, refresh: Refresh, reader: ScriptedReader
) -> None:
    """A read that will not be waited for leaves its job free, and its late answer is thrown away."""

    def interrupted() -> Outcome:
        refresh.give_back()
        return found("c1")

    store(database, body("c1"))
    reader.answers["c1"] = interrupted

    refresh.refresh("c1")

    job = job_of(database, "c1")
    assert (job.lease_token, job.attempts, job.completed, job.requested) == (None, 0, 0, 1)
    assert all_rows(database, Connection) == []


def test_a_job_whose_reader_dies_each_time_is_given_up(
    database: Database, refresh: Refresh, reader: ScriptedReader
) -> None:
    """Attempts are counted before the read, so a connection that kills its process stops doing so."""
    store(database, body("c1"))
    with database.write() as session:
        session.exec(update(Job).values(attempts=MAX_ATTEMPTS))

    refresh.refresh("c1")

    assert reader.reads["c1"] == 0
    assert states_of(database) == ["failed"]


def test_raising_during_a_lease_is_never_lost(database: Database, refresh: Refresh, reader: ScriptedReader) -> None:
    """An operator's wish that comes during a read leads to another read."""

    def asked() -> Outcome:
        reader.answers["c1"] = found("c1")
        with database.write() as session:
            jobs.raise_jobs(database, session, ["c1"], "operator")
        return found("c1")

    store(database, body("c1"))
    reader.answers["c1"] = asked

    refresh.refresh("c1")
    refresh.refresh("c1")

    assert reader.reads["c1"] == 2


def group_of(reader: ScriptedReader, primary: str, members: str) -> None:
    """Let every member of a group answer that ``primary`` leads it."""
    for id_ in members:
        others = [other for other in members if other != id_]
        reader.answers[id_] = found(id_, activeDuplicateConnectionId=primary, duplicateConnectionIds=others)


def group_with_statuses(reader: ScriptedReader, primary: str, members: str) -> None:
    """The same, with the status that Meld gives to the others."""
    for id_ in members:
        others = [other for other in members if other != id_]
        status = "ACTIVE" if id_ == primary else "PARTIALLY_ACTIVE"
        reader.answers[id_] = found(id_, status, activeDuplicateConnectionId=primary, duplicateConnectionIds=others)


def settle(database: Database, refresh: Refresh, calls: list[str]) -> None:
    """Work until nothing is owed, letting the time pass that is waited for."""
    for _ in range(200):
        while calls:
            refresh.refresh(calls.pop(0))
        owed = [job.connection_id for job in all_rows(database, Job) if job.requested > job.completed]
        if not owed:
            return
        make_due(database)
        calls += owed
    pytest.fail("the reads do not end")


def test_a_member_read_too_early_is_read_again(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """A member whose first read after the move still shows the old group disagrees with it, and is rechecked."""
    group_of(reader, "a", "abc")
    calls += store(database, *(body(id_) for id_ in "abc"))
    settle(database, refresh, calls)
    stale = reader.answers["c"]
    group_of(reader, "b", "abc")
    fresh, early = reader.answers["c"], [stale, stale]
    reader.answers["c"] = lambda: early.pop() if early else fresh  # type: ignore[return-value]

    calls += store(database, body("b"))
    settle(database, refresh, calls)

    assert {row.id: row.primary_duplicate_id for row in all_rows(database, Connection)} == dict.fromkeys("abc", "b")
    roles = [event.data["role"] for event in events_of(database) if "primary" in event.type]
    assert sorted(roles) == ["became_primary", "followed", "lost_primary"]


@pytest.mark.parametrize("is_known", [True, False], ids=["known alone", "never seen"])
def test_a_member_that_names_nobody_yet_is_not_left_behind(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str], *, is_known: bool
) -> None:
    """A silent connection that is read before Meld shows its group there names nobody that could have it read again."""
    reader.answers["b"] = alone = found("b")
    calls += store(database, *(body(id_, newStatus="ACTIVE") for id_ in ("ab" if is_known else "a")))
    settle(database, refresh, calls)
    group_of(reader, "a", "ab")
    fresh, early = reader.answers["b"], [alone, alone]
    reader.answers["b"] = lambda: early.pop() if early else fresh  # type: ignore[return-value]

    calls += store(database, body("a", newStatus="ACTIVE"))
    settle(database, refresh, calls)

    assert {row.id: row.primary_duplicate_id for row in all_rows(database, Connection)} == dict.fromkeys("ab", "a")


def test_a_member_that_was_left_is_not_left_behind(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """It still names one that is alone by now, and that is about to be read: whose read does not lead back to it."""
    group_of(reader, "a", "ab")
    calls += store(database, *(body(id_, newStatus="ACTIVE") for id_ in "ab"))
    settle(database, refresh, calls)
    early = [reader.answers["a"]] * 2
    reader.answers["b"] = found("b")

    def a() -> Outcome:
        # Somebody speaks of the other one during each read that is too early.
        if early:
            calls.extend(store(database, body("b", newStatus="ACTIVE")))
        return early.pop() if early else found("a")  # type: ignore[return-value]

    reader.answers["a"] = a
    calls += store(database, body("b", newStatus="ACTIVE"))
    settle(database, refresh, calls)

    assert {row.id: row.primary_duplicate_id for row in all_rows(database, Connection)} == dict.fromkeys("ab")


def test_reads_end_although_the_group_never_agrees(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """Members that contradict each other at every read cost a bounded number of reads for one webhook."""
    flips = dict.fromkeys("abcd", 0)

    def flip(id_: str) -> Outcome:
        flips[id_] += 1
        others = [other for other in "abcd" if other != id_]
        primary = others[flips[id_] % 3]
        return found(id_, activeDuplicateConnectionId=primary, duplicateConnectionIds=others)

    for id_ in "abcd":
        reader.answers[id_] = lambda id_=id_: flip(id_)  # type: ignore[misc]

    calls += store(database, body("a"))
    settle(database, refresh, calls)

    most = sum((6 * 3) ** depth for depth in range(3)) * 6
    assert sum(flips.values()) <= most


def test_a_listed_member_that_meld_does_not_have_is_no_failure(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """An id that only a sibling's list names, and that is 404, is asked for once and fails nothing."""
    reader.answers["a"] = found("a", activeDuplicateConnectionId="a", duplicateConnectionIds=["gone"])
    reader.answers["gone"] = Absent()

    for _ in range(3):
        calls += store(database, body("a"))
        settle(database, refresh, calls)

    assert reader.reads["gone"] == 1
    assert job_of(database, "gone").failed_at is None


def test_a_move_in_a_group_of_five_costs_a_read_for_each(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """With nobody in anybody's way, one webhook that the read confirms and four silent members are five reads."""
    group_of(reader, "a", "abcde")
    calls += store(database, *(body(id_) for id_ in "abcde"))
    settle(database, refresh, calls)
    group_of(reader, "b", "abcde")
    before = sum(reader.reads.values())

    calls += store(database, body("b", newStatus="ACTIVE"))
    settle(database, refresh, calls)

    assert sum(reader.reads.values()) - before == 5


def test_a_webhook_that_names_no_status_costs_one_more_read(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """Nothing tells whether the read has seen what the webhook is about: Meld's API may be behind its webhooks."""
    stale, fresh = found("c1", institutionName="Old"), found("c1", institutionName="New")
    answers: list[Outcome] = [fresh, stale]
    reader.answers["c1"] = answers.pop

    calls += store(database, body("c1"))
    settle(database, refresh, calls)

    assert (reader.reads["c1"], mirror_of(database, "c1").institution_name) == (2, "New")


def test_news_of_another_reason_is_rechecked(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """A read that confirms the status, but not the reason that the webhook gives, is too early."""
    answers: list[Outcome] = [found("c1", statusReason="NEW"), found("c1", statusReason="OLD")]
    reader.answers["c1"] = answers.pop

    calls += store(database, body("c1", newStatus="ACTIVE", newStatusReason="NEW"))
    settle(database, refresh, calls)

    assert (reader.reads["c1"], mirror_of(database, "c1").status_reason) == (2, "NEW")


def test_a_group_of_which_nobody_else_is_left_is_doubted(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """The last one of a group that still names a deleted member was read too early."""
    group_of(reader, "a", "ab")
    calls += store(database, body("a"), body("b"))
    settle(database, refresh, calls)
    stale = found("a", activeDuplicateConnectionId="a", duplicateConnectionIds=["b"])
    answers: list[Outcome] = [found("a"), stale]
    reader.answers["a"] = answers.pop
    reader.answers["b"] = Absent()

    calls += store(database, body("b", DELETED))
    settle(database, refresh, calls)

    assert mirror_of(database, "a").duplicate_ids == []


def test_many_that_disagree_with_one_cost_it_one_recheck(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """A member whose recheck is owed is not rechecked more often because others disagree with it as well."""
    group_of(reader, "a", "abcd")
    calls += store(database, *(body(id_, newStatus="ACTIVE") for id_ in "abcd"))
    settle(database, refresh, calls)
    reader.answers["a"] = found("a")

    with database.write() as session:
        jobs.raise_jobs(database, session, ["b", "c", "d"], "operator")
    for id_ in "bcd":
        refresh.refresh(id_)
    refresh.refresh("a")
    for id_ in "bcd":
        make_due(database)
        refresh.refresh(id_)

    assert job_of(database, "a").rechecks <= 1


@pytest.mark.parametrize("answer", [Absent(), Unreadable("the answer is not JSON")], ids=repr)
def test_a_probe_that_meld_answers_ends_the_pause(
    database: Database, refresh: Refresh, reader: ScriptedReader, answer: Outcome
) -> None:
    """The probe's connection may be gone or unreadable: Meld takes reads again, and the others must not wait."""
    store(database, body("c1"), body("c2"))
    reader.answers["c1"] = Throttled(7)
    refresh.refresh("c1")
    reader.answers["c1"] = answer

    make_due(database)
    refresh.refresh("c1")
    refresh.refresh("c2")

    assert reader.reads["c2"] == 1


def test_an_outage_that_only_one_connection_meets_is_caught_up_with(
    database: Database, refresh: Refresh, reader: ScriptedReader
) -> None:
    """Given up or not, a connection with a fresh webhook is tried again within half a minute until Meld answers."""
    store(database, body("c1"))
    reader.answers["c1"] = Unavailable("Meld answered 500")
    for _ in range(MAX_ATTEMPTS + 5):
        make_due(database)
        refresh.refresh("c1")

    job = job_of(database, "c1")
    assert job.due_at is not None
    assert (job.due_at - datetime.now(UTC)).total_seconds() <= 30
    reader.answers["c1"] = found("c1")
    make_due(database)
    refresh.refresh("c1")
    assert states_of(database) == ["processed"]


def test_one_connection_that_is_refused_alone_holds_up_nobody(
    database: Database, refresh: Refresh, reader: ScriptedReader
) -> None:
    """A 403 of one connection while others are read well becomes that connection's failure, with an end."""
    reader.answers["bad"] = Refused("Meld answered 403")
    store(database, body("bad"))
    paused = 0
    for number in range(MAX_ATTEMPTS + 2):
        make_due(database)
        refresh.refresh("bad")
        with database.read() as session:
            paused += gate.current(session) is not None
        store(database, body(f"c{number}"))
        make_due(database)
        refresh.refresh(f"c{number}")

    assert paused == 1
    assert job_of(database, "bad").failed_at is not None
    assert states_of(database).count("processed") == MAX_ATTEMPTS + 2


def test_an_answer_that_cannot_be_stored_is_that_connections_failure(
    database: Database, refresh: Refresh, reader: ScriptedReader
) -> None:
    """Whatever an answer breaks on its way into the database, the claim is given back with the reason on the row."""
    strange = found("c1")
    object.__setattr__(strange.snapshot, "service_provider_details", {"object": object()})
    reader.answers["c1"] = strange
    store(database, body("c1"))

    refresh.refresh("c1")

    job = job_of(database, "c1")
    assert (job.lease_token, "cannot be stored" in (job.error or "")) == (None, True)


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+10:00", "yesterday", 12])
def test_a_time_beyond_the_calendar_is_none(
    database: Database, refresh: Refresh, reader: ScriptedReader, time: object
) -> None:
    """The connection is mirrored all the same."""
    reader.answers["c1"] = found("c1", successfullyAggregatedAt=time)
    store(database, body("c1"))

    refresh.refresh("c1")

    (connection,) = all_rows(database, Connection)
    assert connection.aggregated_at is None


def test_a_member_that_rested_has_its_rechecks_anew(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """A quarrel of long ago does not keep a member from being read when a read that settles finds another group."""
    group_of(reader, "a", "abc")
    calls += store(database, *(body(id_) for id_ in "abc"))
    settle(database, refresh, calls)
    with database.write() as session:
        session.exec(update(Job).values(rechecks=4, raised_at=datetime.now(UTC) - timedelta(days=1)))
    stale = reader.answers["b"]
    group_of(reader, "b", "abc")
    answers = [reader.answers["b"], stale]
    reader.answers["b"] = lambda: answers.pop() if len(answers) > 1 else answers[0]  # type: ignore[return-value]

    calls += store(database, body("b"))
    settle(database, refresh, calls)

    assert {row.id: row.primary_duplicate_id for row in all_rows(database, Connection)} == dict.fromkeys("abc", "b")


def test_what_was_passed_over_may_have_changed_the_others(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """A primary that moved and came back shows nowhere but in a webhook; what it left behind is found, at one read."""
    group_of(reader, "a", "abc")
    calls += store(database, *(body(id_) for id_ in "abc"))
    settle(database, refresh, calls)
    reads = Counter(reader.reads)
    reader.answers["b"] = found(
        "b", "RECONNECT_REQUIRED", activeDuplicateConnectionId="a", duplicateConnectionIds=["a", "c"]
    )
    calls += store(database, body("a", newStatus="PARTIALLY_ACTIVE"), body("a", newStatus="ACTIVE"))
    settle(database, refresh, calls)

    assert mirror_of(database, "b").status == "RECONNECT_REQUIRED"
    assert Counter(reader.reads) - reads == {"a": 2, "b": 1, "c": 1}


def test_a_member_that_is_read_too_early_is_looked_at_again(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """What was passed over has changed a member that is just being read, of which Meld still shows the state before."""
    group_of(reader, "a", "ab")
    calls += store(database, *(body(id_) for id_ in "ab"))
    settle(database, refresh, calls)
    early = reader.answers["b"]
    damaged = found("b", "RECONNECT_REQUIRED", activeDuplicateConnectionId="a", duplicateConnectionIds=["a"])
    with database.write() as session:
        jobs.raise_jobs(database, session, ["b"], "replay", replay_id="r1")
    calls += store(database, body("a", newStatus="PARTIALLY_ACTIVE"), body("a", newStatus="ACTIVE"))
    refresh.refresh(calls.pop())
    wish = job_of(database, "b")
    reader.answers["b"] = early
    refresh.refresh("b")
    with database.write() as session:
        # That was as long ago as the webhooks are going to be.
        past = datetime.now(UTC) - timedelta(seconds=SETTLE_SECONDS + 1)
        session.exec(update(Connection).where(col(Connection.id) == "b").values(checked_at=past))
    reader.answers["b"] = damaged
    settle(database, refresh, calls)

    assert (wish.trigger, wish.replay_id) == ("replay", "r1")
    assert mirror_of(database, "b").status == "RECONNECT_REQUIRED"


def test_a_member_that_was_given_up_stays_so(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """What was passed over has nobody read who cannot be read."""
    group_of(reader, "a", "ab")
    calls += store(database, *(body(id_) for id_ in "ab"))
    settle(database, refresh, calls)
    with database.write() as session:
        jobs.raise_jobs(database, session, ["b"], "operator")
        session.exec(update(Job).where(col(Job.connection_id) == "b").values(failed_at=datetime.now(UTC)))
    calls += store(database, body("a", newStatus="PARTIALLY_ACTIVE"), body("a", newStatus="ACTIVE"))
    refresh.refresh(calls.pop())

    job = job_of(database, "b")
    assert (job.trigger, job.failed_at is not None) == ("operator", True)


def test_what_was_seen_was_not_passed_over(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """Moves that follow close upon each other cost one read for each member, where every one of them was seen."""
    group_with_statuses(reader, "a", "abc")
    calls += store(database, *(body(id_) for id_ in "abc"))
    settle(database, refresh, calls)
    before = Counter(reader.reads)

    for old, new in pairwise("abcab"):
        group_with_statuses(reader, new, "abc")
        calls += store(database, body(new, newStatus="ACTIVE"), body(old, newStatus="PARTIALLY_ACTIVE"))
        while calls:
            refresh.refresh(calls.pop(0))

    assert Counter(reader.reads) - before == dict.fromkeys("abc", 4)
    assert all(job.trigger == "recheck" for job in all_rows(database, Job) if job.requested > job.completed)


def test_a_late_webhook_has_the_others_read_once(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """Whoever was read since then is not read again for it."""
    group_of(reader, "a", "ab")
    calls += store(database, *(body(id_) for id_ in "ab"))
    settle(database, refresh, calls)
    late, newest = body("a", newStatus="PARTIALLY_ACTIVE"), body("a", newStatus="ACTIVE")
    calls += store(database, newest)
    settle(database, refresh, calls)
    before = reader.reads["b"]

    calls += store(database, late)
    settle(database, refresh, calls)
    reads = Counter(reader.reads)

    for _ in range(3):
        with database.write() as session:
            calls += jobs.raise_jobs(database, session, ["a"], "operator")
        settle(database, refresh, calls)

    assert reads["b"] - before == 1
    assert Counter(reader.reads) - reads == {"a": 3}


def test_a_slow_read_close_behind_a_silent_webhook_is_settled(database: Database, reader: ScriptedReader) -> None:
    """What counts is when the read began: its answer may be as old as that."""
    store(database, body("c1"))
    began = datetime.now(UTC)
    times = iter([began, began + timedelta(seconds=60)])
    with database.write() as session:
        session.exec(update(Webhook).values(received_at=began - timedelta(seconds=SETTLE_SECONDS + 5)))

    refresh_on(database, reader, clock=lambda: next(times)).refresh("c1")

    job = job_of(database, "c1")
    assert (job.requested > job.completed, job.trigger) == (True, "recheck")


@pytest.mark.parametrize(("between", "is_owed"), [("ACTIVE", False), ("RECONNECT_REQUIRED", True)])
def test_a_change_there_and_back_is_settled(
    database: Database, refresh: Refresh, between: str, *, is_owed: bool
) -> None:
    """What the newest webhook names may be how it was before the others; and an answer that shows it may be as old."""
    store(database, body("c1", newStatus="ACTIVE"))
    refresh.refresh("c1")
    make_due(database)
    store(database, body("c1", newStatus=between), body("c1", newStatus="ACTIVE"))

    refresh.refresh("c1")
    job = job_of(database, "c1")
    make_due(database)
    refresh.refresh("c1")
    settled = job_of(database, "c1")

    assert (job.requested > job.completed, job.trigger) == (is_owed, "recheck" if is_owed else "webhook")
    assert settled.requested == settled.completed


def test_a_deletion_seen_by_a_read_that_settles_reaches_the_others(
    database: Database, refresh: Refresh, reader: ScriptedReader, calls: list[str]
) -> None:
    """Also where another read of the deleted one is owed by then, which finds nothing new any more."""
    group_of(reader, "a", "abc")
    calls += store(database, *(body(id_) for id_ in "abc"))
    settle(database, refresh, calls)
    group_of(reader, "b", "bc")

    def gone() -> Outcome:
        store(database, body("a", DELETED))
        return Absent()

    reader.answers["a"] = gone
    with database.write() as session:
        jobs.raise_jobs(database, session, ["a"], "recheck", depth=MAX_DEPTH)
    refresh.refresh("a")
    reader.answers["a"] = Absent()
    settle(database, refresh, calls)

    shown = {row.id: row.primary_duplicate_id for row in all_rows(database, Connection)}
    assert shown == {"a": None, "b": "b", "c": "b"}

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import update
from sqlmodel import col

from runtime.database import Database
from runtime.queues import reads as jobs
from schemas.meld.read_outcome import Absent, ReadOutcome
from schemas.tables import ConnectionRow, ReadRequestRow, WebhookRow
from tests.support.row_lookups import all_rows, events_of, make_due, mirror_of, read_request_of
from tests.support.scripted_meld import ScriptedReader, found, make_refetcher
from tests.support.webhook_factory import DELETED, body, store
from workers.refetch.follow_up_reads import MAX_DEPTH
from workers.refetch.recheck_delays import MAX_API_LAG_SECONDS, RECHECK_SECONDS
from workers.refetch.refetch import Refetcher


def is_pending(database: Database, connection_id: str) -> bool:
    job = read_request_of(database, connection_id)
    return job.requested > job.completed


def script_group(reader: ScriptedReader, primary: str, members: str, *, others: str = "ACTIVE") -> None:
    """Script the answers of a group that ``primary`` leads; ``others`` is the status of the other members."""
    for id_ in members:
        duplicates = [other for other in members if other != id_]
        status = "ACTIVE" if id_ == primary else others
        reader.answers[id_] = found(id_, status, activeDuplicateConnectionId=primary, duplicateConnectionIds=duplicates)


def complete_reads(database: Database, refetcher: Refetcher, calls: list[str]) -> None:
    """Refetch until no read is pending; let the time pass that the requests wait for."""
    for _ in range(200):
        while calls:
            refetcher.refetch(calls.pop(0))
        pending = [job.connection_id for job in all_rows(database, ReadRequestRow) if job.requested > job.completed]
        if not pending:
            return
        make_due(database)
        calls += pending
    pytest.fail("the reads do not end")


@pytest.fixture
def mirrored(database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str]) -> Callable[..., None]:
    """Return what makes a group that Meld has, and whose members the mirror shows as they are."""

    def make(primary: str, members: str, *, others: str = "ACTIVE") -> None:
        script_group(reader, primary, members, others=others)
        calls.extend(store(database, *(body(id_) for id_ in members)))
        complete_reads(database, refetcher, calls)

    return make


def test_siblings_are_read_again_when_the_primary_moves(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str]
) -> None:
    """A read that shows a moved primary requests reads of the members that disagree; each role is emitted once."""

    def group(primary: str) -> None:
        for id_ in ("a", "b", "c"):
            others = [other for other in ("a", "b", "c") if other != id_]
            reader.answers[id_] = found(id_, activeDuplicateConnectionId=primary, duplicateConnectionIds=others)

    group("a")
    store(database, *(body(id_) for id_ in ("a", "b", "c")))
    for id_ in ("a", "b", "c"):
        refetcher.refetch(id_)
    calls.clear()
    group("b")

    store(database, body("a"))
    refetcher.refetch("a")
    while calls:
        refetcher.refetch(calls.pop(0))

    moves = [event for event in events_of(database) if event.type == "connection.primary_duplicate_moved"]
    roles = {event.subject: event.data["role"] for event in moves}
    assert roles == {"a": "lost_primary", "b": "became_primary", "c": "followed"}
    assert len(moves) == 3


def test_a_read_that_contradicts_its_hint_is_rechecked(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """A read that contradicts its hint is rechecked four times; a new hint starts the schedule again."""
    store(database, body("c1", newStatus="RECONNECT_REQUIRED"))

    delays = []
    for _ in range(len(RECHECK_SECONDS) + 1):
        refetcher.refetch("c1")
        due_at = read_request_of(database, "c1").due_at
        delays.append(round((due_at - datetime.now(UTC)).total_seconds()) if due_at else None)
        make_due(database)

    assert delays == [5, 30, 120, 600, None]
    assert reader.reads["c1"] == 5
    store(database, body("c1", newStatus="RECONNECT_REQUIRED"))
    refetcher.refetch("c1")
    assert read_request_of(database, "c1").rechecks == 1


def test_an_old_hint_that_arrives_late_is_not_the_newest(
    database: Database, refetcher: Refetcher, reader: ScriptedReader
) -> None:
    """The newest hint is the one that Meld says happened last, not the one that arrived last."""
    old, new = body("c1", newStatus="RECONNECT_REQUIRED"), body("c1", newStatus="ACTIVE")
    store(database, new)
    refetcher.refetch("c1")
    make_due(database)

    store(database, old)
    refetcher.refetch("c1")
    make_due(database)
    refetcher.refetch("c1")

    request = read_request_of(database, "c1")
    assert (request.due_at, request.rechecks) == (None, 0)


def test_a_member_read_too_early_is_read_again(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """A member whose first read after the move shows the old group disagrees with it and is rechecked."""
    mirrored("a", "abc")
    stale = reader.answers["c"]
    script_group(reader, "b", "abc")
    fresh, early = reader.answers["c"], [stale, stale]
    reader.answers["c"] = lambda: early.pop() if early else fresh  # type: ignore[return-value]

    calls += store(database, body("b"))
    complete_reads(database, refetcher, calls)

    assert {row.id: row.primary_duplicate_id for row in all_rows(database, ConnectionRow)} == dict.fromkeys("abc", "b")
    roles = [event.data["role"] for event in events_of(database) if "primary" in event.type]
    assert sorted(roles) == ["became_primary", "followed", "lost_primary"]


@pytest.mark.parametrize("is_known", [True, False], ids=["known alone", "never seen"])
def test_a_member_that_names_nobody_yet_is_not_left_behind(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str], *, is_known: bool
) -> None:
    """A member that is read before Meld shows its group names nobody; the connection that names it is rechecked."""
    reader.answers["b"] = alone = found("b")
    calls += store(database, *(body(id_, newStatus="ACTIVE") for id_ in ("ab" if is_known else "a")))
    complete_reads(database, refetcher, calls)
    script_group(reader, "a", "ab")
    fresh, early = reader.answers["b"], [alone, alone]
    reader.answers["b"] = lambda: early.pop() if early else fresh  # type: ignore[return-value]

    calls += store(database, body("a", newStatus="ACTIVE"))
    complete_reads(database, refetcher, calls)

    assert {row.id: row.primary_duplicate_id for row in all_rows(database, ConnectionRow)} == dict.fromkeys("ab", "a")


def test_a_member_that_was_left_is_not_left_behind(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str]
) -> None:
    """A member that still names a connection that is alone by now is rechecked, even if it is about to be read."""
    script_group(reader, "a", "ab")
    calls += store(database, *(body(id_, newStatus="ACTIVE") for id_ in "ab"))
    complete_reads(database, refetcher, calls)
    early = [reader.answers["a"]] * 2
    reader.answers["b"] = found("b")

    def a() -> ReadOutcome:
        # Somebody speaks of the other one during each read that is too early.
        if early:
            calls.extend(store(database, body("b", newStatus="ACTIVE")))
        return early.pop() if early else found("a")  # type: ignore[return-value]

    reader.answers["a"] = a
    calls += store(database, body("b", newStatus="ACTIVE"))
    complete_reads(database, refetcher, calls)

    assert {row.id: row.primary_duplicate_id for row in all_rows(database, ConnectionRow)} == dict.fromkeys("ab")


def test_reads_end_although_the_group_never_agrees(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str]
) -> None:
    """Members that contradict each other at every read cost a bounded number of reads for one webhook."""
    flips = dict.fromkeys("abcd", 0)

    def flip(id_: str) -> ReadOutcome:
        flips[id_] += 1
        others = [other for other in "abcd" if other != id_]
        primary = others[flips[id_] % 3]
        return found(id_, activeDuplicateConnectionId=primary, duplicateConnectionIds=others)

    for id_ in "abcd":
        reader.answers[id_] = lambda id_=id_: flip(id_)  # type: ignore[misc]

    calls += store(database, body("a"))
    complete_reads(database, refetcher, calls)

    most = sum((6 * 3) ** depth for depth in range(3)) * 6
    assert sum(flips.values()) <= most


def test_a_listed_member_that_meld_does_not_have_is_no_failure(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str]
) -> None:
    """An id that only a sibling lists, and that Meld answers 404 for, is read once and does not count as a failure."""
    reader.answers["a"] = found("a", activeDuplicateConnectionId="a", duplicateConnectionIds=["gone"])
    reader.answers["gone"] = Absent()

    for _ in range(3):
        calls += store(database, body("a"))
        complete_reads(database, refetcher, calls)

    assert reader.reads["gone"] == 1
    assert read_request_of(database, "gone").failed_at is None


def test_a_move_in_a_group_of_five_costs_a_read_for_each(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """One webhook whose status the read shows, and four members without a webhook, cost five reads."""
    mirrored("a", "abcde")
    script_group(reader, "b", "abcde")
    before = sum(reader.reads.values())

    calls += store(database, body("b", newStatus="ACTIVE"))
    complete_reads(database, refetcher, calls)

    assert sum(reader.reads.values()) - before == 5


def test_a_webhook_that_names_no_status_costs_one_more_read(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str]
) -> None:
    """A read soon after a webhook without a status is followed by a confirming read: Meld's API may lag."""
    stale, fresh = found("c1", institutionName="Old"), found("c1", institutionName="New")
    answers: list[ReadOutcome] = [fresh, stale]
    reader.answers["c1"] = answers.pop

    calls += store(database, body("c1"))
    complete_reads(database, refetcher, calls)

    assert (reader.reads["c1"], mirror_of(database, "c1").institution_name) == (2, "New")


def test_another_reason_is_rechecked(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str]
) -> None:
    """A read that shows the status of the webhook, but not its reason, is rechecked."""
    answers: list[ReadOutcome] = [found("c1", statusReason="NEW"), found("c1", statusReason="OLD")]
    reader.answers["c1"] = answers.pop

    calls += store(database, body("c1", newStatus="ACTIVE", newStatusReason="NEW"))
    complete_reads(database, refetcher, calls)

    assert (reader.reads["c1"], mirror_of(database, "c1").status_reason) == (2, "NEW")


def test_a_group_whose_other_members_have_ended_is_rechecked(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str]
) -> None:
    """A read that names only deleted members was too early."""
    script_group(reader, "a", "ab")
    calls += store(database, body("a"), body("b"))
    complete_reads(database, refetcher, calls)
    stale = found("a", activeDuplicateConnectionId="a", duplicateConnectionIds=["b"])
    answers: list[ReadOutcome] = [found("a"), stale]
    reader.answers["a"] = answers.pop
    reader.answers["b"] = Absent()

    calls += store(database, body("b", DELETED))
    complete_reads(database, refetcher, calls)

    assert mirror_of(database, "a").duplicate_ids == []


def test_many_that_disagree_with_one_cost_it_one_recheck(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str]
) -> None:
    """A member that waits for a recheck gets no second one if more members disagree with it."""
    script_group(reader, "a", "abcd")
    calls += store(database, *(body(id_, newStatus="ACTIVE") for id_ in "abcd"))
    complete_reads(database, refetcher, calls)
    reader.answers["a"] = found("a")

    with database.write() as session:
        jobs.request_reads(database, session, ["b", "c", "d"], "operator")
    for id_ in "bcd":
        refetcher.refetch(id_)
    refetcher.refetch("a")
    for id_ in "bcd":
        make_due(database)
        refetcher.refetch(id_)

    assert read_request_of(database, "a").rechecks <= 1


def test_an_idle_member_has_all_its_rechecks_again(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """A disagreement of long ago does not use up the rechecks of today."""
    mirrored("a", "abc")
    with database.write() as session:
        session.exec(update(ReadRequestRow).values(rechecks=4, requested_at=datetime.now(UTC) - timedelta(days=1)))
    stale = reader.answers["b"]
    script_group(reader, "b", "abc")
    answers = [reader.answers["b"], stale]
    reader.answers["b"] = lambda: answers.pop() if len(answers) > 1 else answers[0]  # type: ignore[return-value]

    calls += store(database, body("b"))
    complete_reads(database, refetcher, calls)

    assert {row.id: row.primary_duplicate_id for row in all_rows(database, ConnectionRow)} == dict.fromkeys("abc", "b")


def test_an_undone_change_has_the_members_read(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """A primary that moved and came back may leave its mark on a member; it is found by one read of each."""
    mirrored("a", "abc")
    reads = Counter(reader.reads)
    reader.answers["b"] = found(
        "b", "RECONNECT_REQUIRED", activeDuplicateConnectionId="a", duplicateConnectionIds=["a", "c"]
    )
    calls += store(database, body("a", newStatus="PARTIALLY_ACTIVE"), body("a", newStatus="ACTIVE"))
    complete_reads(database, refetcher, calls)

    assert mirror_of(database, "b").status == "RECONNECT_REQUIRED"
    assert Counter(reader.reads) - reads == {"a": 2, "b": 1, "c": 1}


def test_a_member_read_before_the_change_shows_is_read_again(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """A member that was being read when the change was undone is read once more, and its request keeps its trigger."""
    mirrored("a", "ab")
    early = reader.answers["b"]
    damaged = found("b", "RECONNECT_REQUIRED", activeDuplicateConnectionId="a", duplicateConnectionIds=["a"])
    with database.write() as session:
        jobs.request_reads(database, session, ["b"], "replay", replay_id="r1")
    calls += store(database, body("a", newStatus="PARTIALLY_ACTIVE"), body("a", newStatus="ACTIVE"))
    refetcher.refetch(calls.pop())
    request = read_request_of(database, "b")
    reader.answers["b"] = early
    refetcher.refetch("b")
    with database.write() as session:
        # That was as long ago as the webhooks are going to be.
        past = datetime.now(UTC) - timedelta(seconds=MAX_API_LAG_SECONDS + 1)
        session.exec(update(ConnectionRow).where(col(ConnectionRow.id) == "b").values(checked_at=past))
    reader.answers["b"] = damaged
    complete_reads(database, refetcher, calls)

    assert (request.trigger, request.replay_id) == ("replay", "r1")
    assert mirror_of(database, "b").status == "RECONNECT_REQUIRED"


def test_a_member_whose_read_is_due_keeps_its_request(
    database: Database, refetcher: Refetcher, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """A read of the member that is due but has not begun is late enough: it is not requested again."""
    mirrored("a", "ab")
    calls += store(database, body("a", newStatus="PARTIALLY_ACTIVE"), body("a", newStatus="ACTIVE"))
    refetcher.refetch(calls.pop())
    with database.write() as session:
        jobs.request_reads(database, session, ["b"], "replay", replay_id="r1")
    make_due(database)
    waiting = read_request_of(database, "b")
    refetcher.refetch("a")

    assert read_request_of(database, "b") == waiting


def test_a_member_whose_reads_were_given_up_is_not_requested_again(
    database: Database, refetcher: Refetcher, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """A change of another connection that was undone does not revive reads that keep failing."""
    mirrored("a", "ab")
    with database.write() as session:
        jobs.request_reads(database, session, ["b"], "operator")
        session.exec(
            update(ReadRequestRow).where(col(ReadRequestRow.connection_id) == "b").values(failed_at=datetime.now(UTC))
        )
    calls += store(database, body("a", newStatus="PARTIALLY_ACTIVE"), body("a", newStatus="ACTIVE"))
    refetcher.refetch(calls.pop())
    make_due(database)
    refetcher.refetch("a")

    request = read_request_of(database, "b")
    assert (request.trigger, request.failed_at is not None) == ("operator", True)


def test_moves_in_a_row_cost_one_read_per_member_and_move(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """Several moves within seconds cost one read for each member and move, and confirming reads."""
    mirrored("a", "abc", others="PARTIALLY_ACTIVE")
    before = Counter(reader.reads)

    for old, new in pairwise("abcab"):
        script_group(reader, new, "abc", others="PARTIALLY_ACTIVE")
        calls += store(database, body(new, newStatus="ACTIVE"), body(old, newStatus="PARTIALLY_ACTIVE"))
        while calls:
            refetcher.refetch(calls.pop(0))

    assert Counter(reader.reads) - before == dict.fromkeys("abc", 4)
    assert all(job.trigger == "recheck" for job in all_rows(database, ReadRequestRow) if job.requested > job.completed)


def test_a_contradiction_has_no_members_read(
    database: Database, refetcher: Refetcher, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """While the newest webhook contradicts the read, the read may just be early: only the connection is read again."""
    mirrored("a", "ab")
    calls += store(database, body("a", newStatus="DEGRADED"))

    refetcher.refetch(calls.pop())

    assert (is_pending(database, "a"), is_pending(database, "b")) == (True, False)


def test_a_change_undone_during_an_outage_has_the_members_read(
    database: Database, refetcher: Refetcher, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """It does not matter how long ago the webhooks of a read arrived."""
    mirrored("a", "ab")
    calls += store(database, body("a", newStatus="DEGRADED"), body("a", newStatus="ACTIVE"))
    with database.write() as session:
        session.exec(update(WebhookRow).values(received_at=datetime.now(UTC) - timedelta(hours=1)))
        session.exec(update(ConnectionRow).values(checked_at=datetime.now(UTC) - timedelta(hours=2)))

    refetcher.refetch(calls.pop())

    assert is_pending(database, "b")


def test_a_late_webhook_has_the_members_read_once(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """Further reads of the connection do not request reads of the members again."""
    mirrored("a", "ab")
    late, newest = body("a", newStatus="PARTIALLY_ACTIVE"), body("a", newStatus="ACTIVE")
    calls += store(database, newest)
    complete_reads(database, refetcher, calls)
    before = reader.reads["b"]

    calls += store(database, late)
    complete_reads(database, refetcher, calls)
    reads = Counter(reader.reads)

    for _ in range(3):
        with database.write() as session:
            calls += jobs.request_reads(database, session, ["a"], "operator")
        complete_reads(database, refetcher, calls)

    assert reads["b"] - before == 1
    assert Counter(reader.reads) - reads == {"a": 3}


def test_a_slow_read_soon_after_a_webhook_is_confirmed(database: Database, reader: ScriptedReader) -> None:
    """What counts is when the read began: its answer may be that old."""
    store(database, body("c1"))
    began = datetime.now(UTC)
    times = iter([began, began + timedelta(seconds=60)])
    with database.write() as session:
        session.exec(update(WebhookRow).values(received_at=began - timedelta(seconds=MAX_API_LAG_SECONDS + 5)))

    make_refetcher(database, reader, clock=lambda: next(times)).refetch("c1")

    job = read_request_of(database, "c1")
    assert (job.requested > job.completed, job.trigger) == (True, "recheck")


@pytest.mark.parametrize(("between", "is_pending"), [("ACTIVE", False), ("RECONNECT_REQUIRED", True)])
def test_a_change_there_and_back_is_confirmed(
    database: Database, refetcher: Refetcher, between: str, *, is_pending: bool
) -> None:
    """If the newest webhook names the status of before the others, an answer that shows it may be older than all."""
    store(database, body("c1", newStatus="ACTIVE"))
    refetcher.refetch("c1")
    make_due(database)
    store(database, body("c1", newStatus=between), body("c1", newStatus="ACTIVE"))

    refetcher.refetch("c1")
    job = read_request_of(database, "c1")
    make_due(database)
    refetcher.refetch("c1")
    settled = read_request_of(database, "c1")

    assert (job.requested > job.completed, job.trigger) == (is_pending, "recheck" if is_pending else "webhook")
    assert settled.requested == settled.completed


def test_a_deletion_seen_by_a_confirming_read_reaches_the_members(
    database: Database, refetcher: Refetcher, reader: ScriptedReader, calls: list[str], mirrored: Callable[..., None]
) -> None:
    """The members are rechecked even if another read of the deleted connection is pending by then."""
    mirrored("a", "abc")
    script_group(reader, "b", "bc")

    def gone() -> ReadOutcome:
        store(database, body("a", DELETED))
        return Absent()

    reader.answers["a"] = gone
    with database.write() as session:
        jobs.request_reads(database, session, ["a"], "recheck", depth=MAX_DEPTH)
    refetcher.refetch("a")
    reader.answers["a"] = Absent()
    complete_reads(database, refetcher, calls)

    shown = {row.id: row.primary_duplicate_id for row in all_rows(database, ConnectionRow)}
    assert shown == {"a": None, "b": "b", "c": "b"}

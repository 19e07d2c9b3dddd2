import json
import re
import threading
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import insert, text, update

from runtime.clock import utcnow
from runtime.database import Database
from runtime.security.encryption import Encryption
from schemas.meld.webhook import RefusedWebhook
from schemas.tables import RejectionRow
from service.rejected.limits import MAX_REJECTED_BODY_BYTES, MAX_UNLIKELY_ROWS
from service.rejected.store import RejectionStore
from tests.service.rejected.refused_requests import make_store, noise, refused, rejections
from tests.support import query_plans
from tests.support.scripted_consumer import ENCRYPTION
from tests.support.webhook_factory import body

REASONS = ("missing", "unreadable_time", "wrong", "too_old", "in_the_future", "encoded", "too_large")


def test_it_is_kept_as_it_came(database: Database) -> None:
    """The row has the request, its times and what its payload names; the body is encrypted."""
    raw = body("c1", "SOMETHING", "e1")
    at = utcnow()
    one = refused(raw, at=at, signed_at=at - timedelta(hours=2))

    results = make_store(database).insert([one])

    (row,) = rejections(database)
    assert results == Counter(kept=1)
    assert (row.reason, row.event_id, row.type, row.size, row.times) == ("wrong", "e1", "SOMETHING", len(raw), 1)
    assert (row.received_at, row.first_at, row.headers) == (at, at, one.headers)
    assert (row.off_seconds, row.is_likely, row.admitted_at) == (7200, True, None)
    assert raw not in row.body
    assert ENCRYPTION.decrypt_bytes(row.body, row.encrypted_with) == raw


def test_without_a_key_it_is_kept_in_clear(database: Database) -> None:
    """The row shows that the body is not encrypted."""
    one = refused()
    RejectionStore(database=database, encryption=Encryption([])).insert([one])

    (row,) = rejections(database)
    assert (row.body, row.encrypted_with) == (one.body, None)


def test_a_retry_is_counted_and_kept_as_it_came_last(database: Database) -> None:
    """In one batch or another, before a restart or after it: signed again, it is the same webhook."""
    raw, at = body("c1"), utcnow()
    requests = [
        refused(raw, at=at + timedelta(minutes=minute), **{"meld-retry-count": str(minute)}) for minute in range(4)
    ]

    first = make_store(database).insert(requests[:2])
    after = make_store(database).insert(requests[2:])

    (row,) = rejections(database)
    assert (first, after) == (Counter(kept=1, repeated=1), Counter(repeated=2))
    assert (row.times, row.first_at, row.received_at) == (4, at, requests[3].received_at)
    assert row.headers == requests[3].headers


def test_what_is_refused_for_another_reason_is_another(database: Database) -> None:
    """One body that was refused as wrong, and later as too old, has two rows."""
    raw = body("c1")
    make_store(database).insert([refused(raw), refused(raw, "too_old")])

    assert [row.reason for row in sorted(rejections(database), key=lambda row: row.reason)] == ["too_old", "wrong"]


@pytest.mark.parametrize(
    ("raw", "reason", "is_likely"),
    [
        (b'{"eventId":"e1"}', "wrong", True),
        (b'{"eventId":"e1"}', "unreadable_time", True),
        (b'{"eventId":"e1"}', "too_old", True),
        (b'{"eventId":"e1"}', "in_the_future", True),
        (b'{"eventId":"e1"}', "missing", False),
        (b'{"eventId":"e1"}', "encoded", False),
        (b'{"eventId":1}', "wrong", False),
        (b'[{"eventId":"e1"}]', "wrong", False),
        (b'"eventId"', "wrong", False),
        (b"", "wrong", False),
        (b'{"eventId":"e1","x":"' + b"x" * MAX_REJECTED_BODY_BYTES + b'"}', "wrong", False),
    ],
)
def test_it_looks_like_melds_or_not(database: Database, raw: bytes, reason: str, is_likely: bool) -> None:  # noqa: FBT001 - drawn
    """Likely: signed, whole, a JSON object, and with an event id."""
    make_store(database).insert([refused(raw, reason)])

    assert [row.is_likely for row in rejections(database)] == [is_likely]


def test_a_long_body_is_cut_off(database: Database) -> None:
    """Its beginning and its length are stored."""
    raw = b"x" * (MAX_REJECTED_BODY_BYTES + 7)
    make_store(database).insert([refused(raw), refused(raw), refused(raw + b"x")])

    cut = [
        (ENCRYPTION.decrypt_bytes(row.body, row.encrypted_with), row.size, row.times) for row in rejections(database)
    ]
    assert sorted(cut, key=lambda each: each[1]) == [
        (raw[:MAX_REJECTED_BODY_BYTES], MAX_REJECTED_BODY_BYTES + 7, 2),
        (raw[:MAX_REJECTED_BODY_BYTES], MAX_REJECTED_BODY_BYTES + 8, 1),
    ]


def test_noise_cannot_push_evidence_out(database: Database) -> None:
    """However much noise of each reason arrives, likely requests stay; of the noise the latest are stored."""
    store = make_store(database)
    genuine = [refused() for _ in range(30)]
    store.insert(genuine[:15])
    last = {}
    for _ in range(12):
        flood = [noise(reason) for reason in REASONS for _ in range(20)]
        store.insert(flood)
        last = {reason: [one.body for one in flood if one.reason == reason] for reason in REASONS}
    store.insert(genuine[15:])

    rows = rejections(database)
    bodies = {row.reason: [] for row in rows} | {reason: [] for reason in REASONS}  # type: ignore[var-annotated]
    for row in rows:
        bodies[row.reason].append(ENCRYPTION.decrypt_bytes(row.body, row.encrypted_with))
    assert {one.body for one in genuine} <= set(bodies["wrong"])
    assert sum(not row.is_likely for row in rows) == MAX_UNLIKELY_ROWS * len(REASONS)
    assert all(set(last[reason]) <= set(bodies[reason]) for reason in REASONS)


def test_likely_requests_of_each_reason_have_a_cap(database: Database) -> None:
    """Beyond it new requests are dropped, never stored ones; repeats are counted, also after a restart."""
    first = [refused() for _ in range(3)]
    store = make_store(database, max_likely_rows=3)
    result = store.insert(first) + store.insert([refused()])
    again = make_store(database, max_likely_rows=3).insert([refused(), first[0], refused(reason="too_old")])

    assert result == Counter(kept=3, over_cap=1)
    assert again == Counter(kept=1, repeated=1, over_cap=1)
    assert Counter(row.reason for row in rejections(database)) == {"wrong": 3, "too_old": 1}


def test_bodies_have_a_cap_too(database: Database) -> None:
    """The bytes of each reason are limited."""
    size = len(refused(body("c1", event_id="e-1")).body)
    store = make_store(database, max_likely_bytes=2 * size)

    results = [store.insert([refused(body("c1", event_id=f"e-{number}"))]) for number in range(1, 4)]

    assert results == [Counter(kept=1), Counter(kept=1), Counter(over_cap=1)]


def test_what_was_admitted_makes_room(database: Database) -> None:
    """An admitted request counts no longer."""
    make_store(database, max_likely_rows=1).insert([refused()])
    with database.write() as session:
        session.exec(update(RejectionRow).values(admitted_at=utcnow()))

    assert make_store(database, max_likely_rows=1).insert([refused()]) == Counter(kept=1)


def test_requests_of_other_processes_count_too(database: Database) -> None:
    """The cap is one for all processes."""
    store = make_store(database, max_likely_rows=2)
    store.insert([refused()])
    make_store(database).insert([refused()])

    assert store.insert([refused()]) == Counter(over_cap=1)


def test_the_sample_is_found_by_index(database: Database) -> None:
    """Deleting old noise does not scan the likely rows."""
    store = make_store(database, max_unlikely_rows=10)
    store.insert([noise("wrong") for _ in range(10)])
    likely = rejections(database)[0].model_dump(exclude={"id", "digest", "is_likely"})
    with database.write() as session:
        rows = [{**likely, "digest": str(number), "is_likely": True} for number in range(3_000)]
        session.connection().execute(insert(RejectionRow), rows)
        session.connection().execute(text("ANALYZE"))

    with query_plans.record_statements(database) as sent:
        store.insert([noise("wrong")])
    (plan,) = query_plans.explain_all(database, [each for each in sent if each[0].startswith("DELETE")])

    assert "ix_rejection_unlikely" in plan
    assert not re.search(r"Seq Scan|SCAN rejection", plan)
    assert len(rejections(database)) == 3_010


HOSTILE = [
    b"",
    b"\x00",
    b'{"eventId":"a\\u0000b","eventType":"\\u0000"}',
    b'{"eventId":"e","eventType":"\\u001b[2J\\u001b]0;x\\u0007"}',
    b'{"eventId":"\\ud800"}',
    b"[" * 60_000,
    b'{"x":' * 10_000 + b"1" + b"}" * 10_000,
    b'{"eventId":' + b"7" * 5000 + b"}",
    b"\xff\xfe",
    bytes(range(256)) * 16,
]


@pytest.mark.parametrize("raw", HOSTILE)
def test_nothing_that_a_stranger_sends_does_harm(database: Database, raw: bytes) -> None:
    """Any body and headers are stored; the columns that the CLI prints contain no control characters."""
    headers = {"meld-signature": "\x00\xff", "meld-signature-timestamp": "\x00", "user-agent": "\x1b[2J\x00"}
    results = make_store(database).insert([RefusedWebhook("unreadable_time", utcnow(), headers, raw, len(raw))])

    (row,) = rejections(database)
    assert results == Counter(kept=1)
    assert ENCRYPTION.decrypt_bytes(row.body, row.encrypted_with) == raw
    assert all(text is None or text.isprintable() for text in (row.type, row.event_id))
    assert "\x00" not in json.dumps(row.headers)


def test_concurrent_processes_count_every_request(database: Database) -> None:
    """They store the same webhooks in any order: every request is counted, and no process blocks another."""
    bodies = [body("c1") for _ in range(20)]
    errors: list[BaseException] = []

    def keep(step: int) -> None:
        try:
            store = make_store(database)
            for start in range(10):
                chosen = bodies[start::step] + bodies[:start]
                store.insert([refused(raw) for raw in chosen])
                store.insert([noise() for _ in range(60)])
        except BaseException as error:  # noqa: BLE001 - of whatever kind, it is what this looks for
            errors.append(error)

    threads = [threading.Thread(target=keep, args=(step,)) for step in (1, -1, 2, -2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    requests = sum(len(bodies[start::step] + bodies[:start]) for step in (1, -1, 2, -2) for start in range(10))
    likely = [row for row in rejections(database) if row.is_likely]
    assert errors == []
    assert len(likely) == len(bodies)
    assert sum(row.times for row in likely) == requests

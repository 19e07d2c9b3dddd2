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
from schemas.meld.webhook import MAX_REJECTED_BODY_BYTES, RefusedWebhook
from schemas.tables import RejectionRow
from service.rejected.store import MOST_UNLIKELY, RejectionStore
from tests.service.rejected.refused_requests import evidence, noise, refused, rejections
from tests.support import query_plans
from tests.support.scripted_consumer import VAULT
from tests.support.webhook_factory import body

REASONS = ("missing", "unreadable_time", "wrong", "too_old", "in_the_future", "encoded", "too_large")


def test_it_is_kept_as_it_came(database: Database) -> None:
    """What was sent, when, and what it claims; the body sealed."""
    raw = body("c1", "SOMETHING", "e1")
    at = utcnow()
    one = refused(raw, at=at, signed_at=at - timedelta(hours=2))

    results = evidence(database).keep([one])

    (row,) = rejections(database)
    assert results == Counter(kept=1)
    assert (row.reason, row.event_id, row.type, row.size, row.times) == ("wrong", "e1", "SOMETHING", len(raw), 1)
    assert (row.received_at, row.first_at, row.headers) == (at, at, one.headers)
    assert (row.off_seconds, row.is_likely, row.admitted_at) == (7200, True, None)
    assert raw not in row.body
    assert VAULT.open_bytes(row.body, row.encrypted_with) == raw


def test_without_a_key_it_is_kept_in_clear(database: Database) -> None:
    """As webhooks are; the row says so."""
    one = refused()
    RejectionStore(database=database, vault=Encryption([])).keep([one])

    (row,) = rejections(database)
    assert (row.body, row.encrypted_with) == (one.body, None)


def test_a_retry_is_counted_and_kept_as_it_came_last(database: Database) -> None:
    """Whether in one batch or another, before a restart or after it: signed anew, it is the same webhook."""
    raw, at = body("c1"), utcnow()
    comings = [
        refused(raw, at=at + timedelta(minutes=minute), **{"meld-retry-count": str(minute)}) for minute in range(4)
    ]

    first = evidence(database).keep(comings[:2])
    after = evidence(database).keep(comings[2:])

    (row,) = rejections(database)
    assert (first, after) == (Counter(kept=1, repeated=1), Counter(repeated=2))
    assert (row.times, row.first_at, row.received_at) == (4, at, comings[3].received_at)
    assert row.headers == comings[3].headers


def test_what_is_refused_for_another_reason_is_another(database: Database) -> None:
    """One body, refused as wrong and later as too old, is there twice."""
    raw = body("c1")
    evidence(database).keep([refused(raw), refused(raw, "too_old")])

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
    """Signed, whole, a JSON object, and with an event id."""
    evidence(database).keep([refused(raw, reason)])

    assert [row.is_likely for row in rejections(database)] == [is_likely]


def test_a_long_body_is_cut_off(database: Database) -> None:
    """Its beginning is kept, and how long it was."""
    raw = b"x" * (MAX_REJECTED_BODY_BYTES + 7)
    evidence(database).keep([refused(raw), refused(raw), refused(raw + b"x")])

    cut = [(VAULT.open_bytes(row.body, row.encrypted_with), row.size, row.times) for row in rejections(database)]
    assert sorted(cut, key=lambda each: each[1]) == [
        (raw[:MAX_REJECTED_BODY_BYTES], MAX_REJECTED_BODY_BYTES + 7, 2),
        (raw[:MAX_REJECTED_BODY_BYTES], MAX_REJECTED_BODY_BYTES + 8, 1),
    ]


def test_noise_cannot_push_evidence_out(database: Database) -> None:
    """However much comes of whatever reason: what looks like Meld's stays, of the rest the latest are a sample."""
    kept = evidence(database)
    genuine = [refused() for _ in range(30)]
    kept.keep(genuine[:15])
    last = {}
    for _ in range(12):
        flood = [noise(reason) for reason in REASONS for _ in range(20)]
        kept.keep(flood)
        last = {reason: [one.body for one in flood if one.reason == reason] for reason in REASONS}
    kept.keep(genuine[15:])

    rows = rejections(database)
    bodies = {row.reason: [] for row in rows} | {reason: [] for reason in REASONS}  # type: ignore[var-annotated]
    for row in rows:
        bodies[row.reason].append(VAULT.open_bytes(row.body, row.encrypted_with))
    assert {one.body for one in genuine} <= set(bodies["wrong"])
    assert sum(not row.is_likely for row in rows) == MOST_UNLIKELY * len(REASONS)
    assert all(set(last[reason]) <= set(bodies[reason]) for reason in REASONS)


def test_what_looks_like_melds_has_a_cap_of_its_own_for_each_reason(database: Database) -> None:
    """Beyond it the newcomer is dropped, not what is there; that is still counted, also behind a restart."""
    first = [refused() for _ in range(3)]
    kept = evidence(database, most_likely=3)
    result = kept.keep(first) + kept.keep([refused()])
    again = evidence(database, most_likely=3).keep([refused(), first[0], refused(reason="too_old")])

    assert result == Counter(kept=3, over_cap=1)
    assert again == Counter(kept=1, repeated=1, over_cap=1)
    assert Counter(row.reason for row in rejections(database)) == {"wrong": 3, "too_old": 1}


def test_bodies_have_a_cap_too(database: Database) -> None:
    """So many bytes for each reason."""
    size = len(refused(body("c1", event_id="e-1")).body)
    kept = evidence(database, most_likely_bytes=2 * size)

    results = [kept.keep([refused(body("c1", event_id=f"e-{number}"))]) for number in range(1, 4)]

    assert results == [Counter(kept=1), Counter(kept=1), Counter(over_cap=1)]


def test_what_was_admitted_makes_room(database: Database) -> None:
    """It waits for nothing any more."""
    evidence(database, most_likely=1).keep([refused()])
    with database.write() as session:
        session.exec(update(RejectionRow).values(admitted_at=utcnow()))

    assert evidence(database, most_likely=1).keep([refused()]) == Counter(kept=1)


def test_the_count_is_made_again_now_and_then(database: Database) -> None:
    """What another process has kept, or an operator let in, is seen."""
    kept = evidence(database, most_likely=2, count_seconds=0)
    kept.keep([refused()])
    evidence(database).keep([refused()])

    assert kept.keep([refused()]) == Counter(over_cap=1)


def test_the_sample_is_found_by_index(database: Database) -> None:
    """However much there is that looks like Meld's: to remove what makes way, none of it is looked at."""
    kept = evidence(database, most_unlikely=10)
    kept.keep([noise("wrong") for _ in range(10)])
    likely = rejections(database)[0].model_dump(exclude={"id", "digest", "is_likely"})
    with database.write() as session:
        rows = [{**likely, "digest": str(number), "is_likely": True} for number in range(3_000)]
        session.connection().execute(insert(RejectionRow), rows)
        session.connection().execute(text("ANALYZE"))

    with query_plans.recording(database) as sent:
        kept.keep([noise("wrong")])
    (plan,) = query_plans.plans_of(database, [each for each in sent if each[0].startswith("DELETE")])

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
    """Whatever the body and the headers are, it is kept; and what is shown has no power over a terminal."""
    headers = {"meld-signature": "\x00\xff", "meld-signature-timestamp": "\x00", "user-agent": "\x1b[2J\x00"}
    results = evidence(database).keep([RefusedWebhook("unreadable_time", utcnow(), headers, raw, len(raw))])

    (row,) = rejections(database)
    assert results == Counter(kept=1)
    assert VAULT.open_bytes(row.body, row.encrypted_with) == raw
    assert all(text is None or text.isprintable() for text in (row.type, row.event_id))
    assert "\x00" not in json.dumps(row.headers)


def test_processes_beside_each_other_lose_no_coming(database: Database) -> None:
    """They meet the same webhooks in any order: every coming is counted, and nobody blocks another for good."""
    bodies = [body("c1") for _ in range(20)]
    errors: list[BaseException] = []

    def keep(step: int) -> None:
        try:
            kept = evidence(database)
            for start in range(10):
                chosen = bodies[start::step] + bodies[:start]
                kept.keep([refused(raw) for raw in chosen])
                kept.keep([noise() for _ in range(60)])
        except BaseException as error:  # noqa: BLE001 - of whatever kind, it is what this looks for
            errors.append(error)

    threads = [threading.Thread(target=keep, args=(step,)) for step in (1, -1, 2, -2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    comings = sum(len(bodies[start::step] + bodies[:start]) for step in (1, -1, 2, -2) for start in range(10))
    likely = [row for row in rejections(database) if row.is_likely]
    assert errors == []
    assert len(likely) == len(bodies)
    assert sum(row.times for row in likely) == comings

import itertools
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import delete, update
from sqlmodel import col, select

from runtime.database import Database
from runtime.errors import EncryptionError, OutOfReachError
from runtime.security.encryption import Encryption
from schemas.key_rotation import KeyRotationReport
from schemas.tables import AuditRow, DeliveryQueueRow, RejectionRow, SubscriptionRow, WebhookRow
from service.ingest.webhook_insert import make_webhook_table
from service.key_rotation import MAX_BATCH_BYTES, KeyRotation
from service.rejected.store import RejectionStore
from tests.end_to_end.manual_time import empty
from tests.service.conftest import AppFactory
from tests.service.rejected.refused_requests import refused, rejections
from tests.support import row_factory
from tests.support.encryption_keys import ENCRYPTION, KEY, OLD
from tests.support.random_rounds import rounds
from tests.support.scripted_consumer import (
    SECRET,
    ScriptedConsumer,
    emit,
    make_dispatcher,
    run_in_threads,
    subscribe,
    subscription,
)
from tests.support.webhook_factory import body, received_webhook

LOST = SecretStr(Fernet.generate_key().decode())
BOTH = Encryption([KEY, OLD])
ENCRYPTIONS = {"clear": Encryption([]), "old": Encryption([OLD]), "new": ENCRYPTION, "lost": Encryption([LOST])}
BODIES = ("webhook bodies", "rejection bodies")


def rotate_on(
    database: Database, encryption: Encryption = BOTH, wait: Callable[[float], object] = id, **bounds: int
) -> KeyRotation:
    return KeyRotation(database=database, encryption=encryption, wait=wait, **bounds)


def webhook(encryption: Encryption, raw: bytes = b"raw", **values: Any) -> WebhookRow:
    return row_factory.webhook(body=encryption.encrypt_bytes(raw), encrypted_with=encryption.key_name, **values)


def rejection(encryption: Encryption, digest: str, raw: bytes = b"raw") -> RejectionRow:
    encrypted = {"body": encryption.encrypt_bytes(raw), "encrypted_with": encryption.key_name}
    times = {"first_at": row_factory.TIME, "received_at": row_factory.TIME}
    return RejectionRow(digest=digest, reason="wrong", size=len(raw), headers={}, is_likely=True, **times, **encrypted)


def stored(database: Database) -> list[WebhookRow]:
    with database.read() as session:
        return list(session.exec(select(WebhookRow).order_by(col(WebhookRow.id))).all())


def decrypted(encryption: Encryption, found: Sequence[WebhookRow | RejectionRow]) -> list[bytes]:
    return [encryption.decrypt_bytes(row.body, row.encrypted_with) for row in found]


def previous(encryption: Encryption, secret: str, hours: float) -> dict[str, str]:
    return {"sealed": encryption.encrypt(secret), "until": (datetime.now(UTC) + timedelta(hours=hours)).isoformat()}


def summaries(rotations: Sequence[KeyRotationReport]) -> dict[str, tuple[int, int, dict[str, int]]]:
    return {each.kind: (each.rotated, each.unreadable, each.keys) for each in rotations}


def test_everything_is_encrypted_with_the_newest_key(database: Database) -> None:
    """Unencrypted bodies, bodies under an older key and all secrets: the newest key alone decrypts them afterwards."""
    row_factory.store(database, *(webhook(ENCRYPTIONS[name], name.encode()) for name in ("clear", "old", "new")))
    row_factory.store(database, rejection(ENCRYPTIONS["clear"], "1"), rejection(ENCRYPTIONS["old"], "2"))
    subscribe(
        database,
        secret=ENCRYPTIONS["old"].encrypt(SECRET),
        previous_secrets=[previous(ENCRYPTIONS["old"], "before", 1)],
    )
    subscribe(database, "handler", url="python:ours.handle", secret="")

    rotations = rotate_on(database).run(who="alice")

    name = ENCRYPTION.key_name
    assert summaries(rotations) == {
        "webhook bodies": (2, 0, {name: 3}),
        "rejection bodies": (2, 0, {name: 2}),
        "subscription secrets": (2, 0, {name: 2}),
    }
    assert {each.newest for each in rotations} == {name}
    assert decrypted(ENCRYPTION, stored(database)) == [b"clear", b"old", b"new"]
    assert decrypted(ENCRYPTION, rejections(database)) == [b"raw", b"raw"]
    bodies: list[Any] = [*stored(database), *rejections(database)]
    assert {each.encrypted_with for each in bodies} == {name}
    row = subscription(database)
    assert [ENCRYPTION.decrypt(row.secret), ENCRYPTION.decrypt(row.previous_secrets[0]["sealed"])] == [SECRET, "before"]
    assert subscription(database, "handler").secret == ""


def test_a_second_run_leaves_bodies_as_they_are(database: Database) -> None:
    """Bodies under the newest key are scanned, and not written again."""
    row_factory.store(database, *(webhook(ENCRYPTIONS["old"]) for _ in range(5)))
    rotate_on(database).run(who="alice")
    before = [row.body for row in stored(database)]

    rotations = rotate_on(database).run(who="alice")

    assert summaries(rotations)["webhook bodies"] == (0, 0, {ENCRYPTION.key_name: 5})
    assert [row.body for row in stored(database)] == before


def test_the_rotation_is_audited(database: Database) -> None:
    """The entry has the name of the key and is written first, so an interrupted rotation is audited too."""
    row_factory.store(database, webhook(ENCRYPTIONS["old"]))

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotate_on(database, wait=interrupt).run(who="alice")

    with database.read() as session:
        (act,) = session.exec(select(AuditRow)).all()
    assert (act.who, act.act, act.subject) == ("alice", "keys.rotated", ENCRYPTION.key_name)


def test_a_rotation_needs_a_key(database: Database) -> None:
    """The error names the setting; nothing is written."""
    row_factory.store(database, webhook(ENCRYPTIONS["clear"]))

    with pytest.raises(EncryptionError, match="MELDWATCH_ENCRYPTION_KEYS is not set"):
        rotate_on(database, Encryption([])).run(who="alice")

    with database.read() as session:
        assert session.exec(select(AuditRow)).all() == []
    assert [row.encrypted_with for row in stored(database)] == [None]


def test_bodies_that_no_key_decrypts_are_unchanged(database: Database) -> None:
    """They are counted by the name of their key; all others are encrypted again."""
    spoilt = webhook(ENCRYPTIONS["old"], b"spoilt")
    spoilt.body = spoilt.body[:-4] + b"AAA="
    row_factory.store(database, webhook(ENCRYPTIONS["lost"]), spoilt, webhook(ENCRYPTIONS["old"], b"good"))
    row_factory.store(database, rejection(ENCRYPTIONS["lost"], "1"))
    subscribe(
        database,
        "s1",
        secret=ENCRYPTIONS["lost"].encrypt(SECRET),
        previous_secrets=[previous(ENCRYPTIONS["old"], "good", 1)],
    )
    subscribe(
        database,
        "s2",
        secret=ENCRYPTIONS["old"].encrypt(SECRET),
        previous_secrets=[previous(ENCRYPTIONS["lost"], "x", 1)],
    )
    before = [row.body for row in stored(database)]

    rotations = rotate_on(database).run(who="alice")

    new, old, lost = (ENCRYPTIONS[name].key_name for name in ("new", "old", "lost"))
    assert summaries(rotations) == {
        "webhook bodies": (1, 2, {new: 1, old: 1, lost: 1}),
        "rejection bodies": (0, 1, {lost: 1}),
        "subscription secrets": (2, 2, {new: 2, "unknown": 2}),
    }
    assert [row.body for row in stored(database)][:2] == before[:2]
    assert decrypted(ENCRYPTION, stored(database)[2:]) == [b"good"]
    first, second = subscription(database, "s1"), subscription(database, "s2")
    assert [ENCRYPTIONS["lost"].decrypt(first.secret), ENCRYPTION.decrypt(first.previous_secrets[0]["sealed"])] == [
        SECRET,
        "good",
    ]
    assert [ENCRYPTION.decrypt(second.secret), ENCRYPTIONS["lost"].decrypt(second.previous_secrets[0]["sealed"])] == [
        SECRET,
        "x",
    ]


def test_a_handler_has_no_secret(database: Database) -> None:
    """Its empty secret is neither counted nor changed."""
    subscribe(database, url="python:mine.f", secret="")

    rotations = rotate_on(database).run(who="alice")

    assert summaries(rotations)["subscription secrets"] == (0, 0, {ENCRYPTION.key_name: 0})
    assert subscription(database).secret == ""


def test_an_expired_secret_is_dropped(database: Database) -> None:
    """A previous secret that has expired does not count, even if no key decrypts it."""
    subscribe(database, previous_secrets=[previous(ENCRYPTION, "lasts", 1), previous(ENCRYPTIONS["lost"], "over", -1)])

    rotations = rotate_on(database).run(who="alice")

    assert summaries(rotations)["subscription secrets"] == (2, 0, {ENCRYPTION.key_name: 2})
    assert [ENCRYPTION.decrypt(old["sealed"]) for old in subscription(database).previous_secrets] == ["lasts"]


def test_many_rows_are_rotated(database: Database) -> None:
    """Several scans, gaps between the ids, bodies that fill a batch alone: each row once."""
    sizes = [1, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES + 1, *[10] * 2_500, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES // 2, 1]
    row_factory.store(database, *(webhook(ENCRYPTIONS["clear"], b"x" * size) for size in sizes))
    with database.write() as session:
        session.exec(delete(WebhookRow).where(col(WebhookRow.id) % 7 == 0))
    before = decrypted(ENCRYPTION, stored(database))
    waits: list[float] = []
    scanned: list[int] = []

    rotations = rotate_on(database, wait=waits.append).run(scanned.append, who="alice")

    assert summaries(rotations)["webhook bodies"] == (len(before), 0, {ENCRYPTION.key_name: len(before)})
    assert [row.encrypted_with for row in stored(database)] == [ENCRYPTION.key_name] * len(before)
    assert decrypted(ENCRYPTION, stored(database)) == before
    assert (sum(scanned), len(scanned)) == (len(before), 3)
    assert len(waits) >= len(before) / 100


@given(
    kinds=st.lists(st.sampled_from([*ENCRYPTIONS, "emptied", "gone"]), max_size=12),
    scan_size=st.integers(1, 4),
    max_batch_rows=st.integers(1, 4),
    crash_after=st.none() | st.integers(1, 6),
)
@settings(max_examples=rounds(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_interrupted_rotation_is_completed_by_the_next(
    sqlite_url: str, kinds: list[str], scan_size: int, max_batch_rows: int, crash_after: int | None
) -> None:
    """Any rows, any batch sizes, a crash after any commit: the next run has the result of a single one."""
    database = Database(sqlite_url)
    empty(database)
    for number, kind in enumerate(kinds):
        encryption = ENCRYPTIONS.get(kind, ENCRYPTIONS["old"])
        emptied = {"emptied_at": row_factory.TIME} if kind == "emptied" else {}
        row_factory.store(database, webhook(encryption, b"%d" % number, event_id=str(number), **emptied))
    with database.write() as session:
        session.exec(
            delete(WebhookRow).where(col(WebhookRow.event_id).in_(n for n, k in enumerate(kinds) if k == "gone"))
        )
    left = [crash_after or 0]

    def crash(_seconds: float) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise InterruptedError

    try:
        rotations = rotate_on(database, wait=crash, scan_size=scan_size, max_batch_rows=max_batch_rows).run(who="alice")
    except InterruptedError:
        rotations = rotate_on(database, scan_size=scan_size, max_batch_rows=max_batch_rows).run(who="alice")

    expected = {"clear": "new", "old": "new", "new": "new", "lost": "lost", "emptied": "old"}
    found = stored(database)
    names = {row.event_id: row.encrypted_with for row in found}
    assert names == {
        str(number): ENCRYPTIONS[expected[kind]].key_name for number, kind in enumerate(kinds) if kind != "gone"
    }
    assert decrypted(Encryption([KEY, OLD, LOST]), found) == [row.event_id.encode() for row in found]
    assert rotations[0].unreadable == kinds.count("lost")
    assert sum(rotations[0].keys.values()) == len(found) - kinds.count("emptied")
    database.close()


class InterferingEncryption(Encryption):
    """An encryption that calls a function once, between the read of the first row and its write."""

    def __init__(self, interfere: Callable[[], object]) -> None:
        super().__init__([KEY, OLD])
        self._interfere = [interfere]

    def encrypt_bytes(self, content: bytes) -> bytes:
        """Call the function, and encrypt."""
        while self._interfere:
            self._interfere.pop()()
        return super().encrypt_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        update(WebhookRow).values(body=b"", emptied_at=row_factory.TIME),
        update(WebhookRow).values(body=b"", encrypted_with=None, emptied_at=row_factory.TIME),
        update(WebhookRow).values(
            body=ENCRYPTIONS["lost"].encrypt_bytes(b"other"), encrypted_with=ENCRYPTIONS["lost"].key_name
        ),
        delete(WebhookRow),
    ],
    ids=["emptied", "emptied and unencrypted", "rotated to another key", "removed"],
)
def test_rows_that_change_meanwhile_are_not_written(database: Database, change: Any) -> None:
    """A row that differs from the row that was read is not written: bodies that retention deleted do not return."""
    row_factory.store(database, webhook(ENCRYPTIONS["old"], b"removed"))
    changed: list[WebhookRow] = []

    def interfere() -> None:
        with database.write() as session:
            session.exec(change)
        changed.extend(stored(database))

    (rotation, *_) = rotate_on(database, InterferingEncryption(interfere)).run(who="alice")

    assert rotation.rotated == 0
    assert stored(database) == changed


def test_concurrent_changes_of_a_webhook_are_kept(database: Database) -> None:
    """A webhook that is processed, or arrives again, during the rotation keeps both changes."""
    raw = body("c1", event_id="e1")
    with closing(make_webhook_table(database, ENCRYPTIONS["old"])) as table:
        table.insert([received_webhook(raw)])

        def interfere() -> None:
            table.insert([received_webhook(raw)])
            with database.write() as session:
                session.exec(update(WebhookRow).values(processed_at=row_factory.TIME))

        rotate_on(database, InterferingEncryption(interfere)).run(who="alice")

    (row,) = stored(database)
    assert (row.deliveries, row.processed_at, row.encrypted_with) == (2, row_factory.TIME, ENCRYPTION.key_name)
    assert decrypted(ENCRYPTION, [row]) == [raw]


def test_concurrent_rotations_and_writers_lose_nothing(database: Database) -> None:
    """Two rotations while webhooks arrive under either key: every body can be decrypted, finally with the new key."""
    known = [body(f"c{number}", event_id=f"e{number}") for number in range(400)]
    with closing(make_webhook_table(database, ENCRYPTIONS["old"])) as table:
        for start in range(0, 200, 50):
            table.insert([received_webhook(raw) for raw in known[start : start + 50]])
    outcomes: list[Sequence[KeyRotationReport]] = []
    is_over = threading.Event()

    def write(encryption: Encryption, start: int) -> None:
        with closing(make_webhook_table(database, encryption)) as table:
            for number in range(start, 400, 2):
                table.insert([received_webhook(known[number]), received_webhook(known[number // 2])])

    def rotate_repeatedly() -> None:
        while not is_over.is_set():
            outcomes.append(rotate_on(database, scan_size=64, max_batch_rows=16).run(who="alice"))

    rotators = [threading.Thread(target=rotate_repeatedly) for _ in range(2)]
    writers = [
        threading.Thread(target=write, args=(ENCRYPTIONS["old"], 200)),
        threading.Thread(target=write, args=(BOTH, 201)),
    ]
    for thread in (*rotators, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    is_over.set()
    for thread in rotators:
        thread.join()
    (last, *_) = rotate_on(database).run(who="alice")

    assert last.keys == {ENCRYPTION.key_name: 400}
    assert {row.event_id: ENCRYPTION.decrypt_bytes(row.body, row.encrypted_with) for row in stored(database)} == {
        f"e{number}": raw for number, raw in enumerate(known)
    }
    assert all(rotation.unreadable == 0 for rotations in outcomes for rotation in rotations)
    # Each row was encrypted again once, by one of the rotations.
    old = sum(rotations[0].rotated for rotations in outcomes) + last.rotated
    assert old == 300


def test_rejections_that_repeat_during_a_rotation_are_counted(database: Database) -> None:
    """A transaction that counts rejections locks many rows at once, in the same order as a rotation."""
    webhooks = [refused(body(f"c{number}", event_id=f"e{number}")) for number in range(120)]
    rng = random.Random(5)
    orders = [rng.sample(webhooks, len(webhooks)) for _ in range(40)]
    encryptions = itertools.cycle([BOTH, Encryption([OLD, KEY])])
    for rejected in webhooks:
        RejectionStore(database=database, encryption=BOTH).insert([rejected])
    is_over = threading.Event()
    errors: list[Exception] = []

    def rotate_repeatedly() -> None:
        while not is_over.is_set():
            try:
                rotate_on(database, next(encryptions)).run(who="alice")
            except OutOfReachError as error:
                errors.append(error)

    rotating = threading.Thread(target=rotate_repeatedly)
    rotating.start()
    for order in orders:
        RejectionStore(database=database, encryption=BOTH).insert(order)
    is_over.set()
    rotating.join()

    assert errors == []
    assert [row.times for row in rejections(database)] == [41] * len(webhooks)
    assert decrypted(BOTH, rejections(database)) == [each.body for each in webhooks]


def test_concurrent_rotations_of_a_secret_and_of_keys(database: Database) -> None:
    """Both lock the row of the subscription: in any order, the last secret signs."""
    manager = AppFactory(database=database).subscription_manager(BOTH)
    subscribe(database, secret=ENCRYPTIONS["old"].encrypt(SECRET))
    secrets: list[str] = []
    is_over = threading.Event()

    def renew_secret() -> None:
        try:
            secrets.extend(manager.rotate_secret("s1", who="alice").secret for _ in range(12))
        finally:
            is_over.set()

    def rotate_repeatedly() -> None:
        while not is_over.is_set():
            rotate_on(database).run(who="alice")

    renewing = threading.Thread(target=renew_secret)
    renewing.start()
    run_in_threads(2, rotate_repeatedly)
    renewing.join()
    rotate_on(database).run(who="alice")

    row = subscription(database)
    encrypted = [row.secret, *(old["sealed"] for old in row.previous_secrets)]
    assert [ENCRYPTION.decrypt(each) for each in encrypted] == secrets[: -len(encrypted) - 1 : -1]
    assert len(encrypted) == 6


def test_a_worker_without_the_newest_key_keeps_deliveries_pending(database: Database) -> None:
    """It records the error; with the key, it pushes them."""
    consumer = ScriptedConsumer()
    subscribe(database, secret=ENCRYPTIONS["old"].encrypt(SECRET))
    (event_id,) = emit(database, "c1")
    rotate_on(database).run(who="alice")

    make_dispatcher(database, consumer, encryption=ENCRYPTIONS["old"]).deliver("s1")
    error = subscription(database).error or ""
    with database.write() as session:
        session.exec(update(DeliveryQueueRow).values(due_at=row_factory.TIME))
    make_dispatcher(database, consumer, encryption=Encryption([OLD, KEY])).deliver("s1")

    assert "lacks the key" in error
    assert consumer.event_ids == [event_id]


STEPS = [
    ([OLD], [OLD]),
    ([OLD, KEY], [OLD]),
    ([OLD, KEY], [OLD, KEY]),
    ([KEY, OLD], [OLD, KEY]),
    ([KEY, OLD], [KEY, OLD]),
    None,  # keys rotate
    ([KEY], [KEY, OLD]),
    ([KEY], [KEY]),
]
"""The order that docs/operations.md gives: the keys of two processes, step by step."""


def test_the_documented_order_of_steps_keeps_all_rows_readable(database: Database) -> None:
    """In every step, two processes each store a body and a secret, and decrypt all that either has stored so far."""
    count = 0
    for number, step in enumerate(STEPS):
        if step is None:
            rotations = rotate_on(database).run(who="alice")
            assert all(each.keys.keys() == {ENCRYPTION.key_name} for each in rotations if each.keys)
            continue
        encryptions = [Encryption(keys) for keys in step]
        for place, encryption in enumerate(encryptions):
            with closing(make_webhook_table(database, encryption)) as table:
                table.insert([received_webhook(b"%d %d" % (number, place))])
            subscribe(database, f"s{number}-{place}", secret=encryption.encrypt(SECRET))
        with database.read() as session:
            secrets = session.exec(select(SubscriptionRow.secret)).all()
        count += 2
        for encryption in encryptions:
            assert len(set(decrypted(encryption, stored(database)))) == count
            assert [encryption.decrypt(secret) for secret in secrets] == [SECRET] * count

import random
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import delete, text
from sqlmodel import SQLModel, select

from runtime.clock import utcnow
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.security.encryption import Encryption
from schemas.meld.webhook import ReceivedWebhook
from schemas.tables import AuditRow, ReadRequestRow, RejectionRow, WebhookRow
from service.ingest.signature import SignatureVerifier, TimestampWindow
from service.ingest.webhook_insert import make_webhook_table
from service.rejected.limits import MAX_REJECTED_BODY_BYTES
from service.rejected.reverify import RejectionReverifier, ReverifyResult
from tests.service.rejected.refused_requests import WRONG, make_store, noise, refused, rejections
from tests.support.meld_signature import SECRET, URL
from tests.support.scripted_consumer import ENCRYPTION
from tests.support.webhook_factory import body, store

DAYS = TimestampWindow(max_age=timedelta(days=4), max_skew=timedelta(minutes=5))


class ReverifySetup:
    """A reverifier as the command makes it, and the notified connections."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.notified: list[str] = []
        self.progress: list[int] = []

    def make(self, **other: Any) -> RejectionReverifier:
        """Return a reverifier."""
        parts: dict[str, Any] = {
            "encryption": ENCRYPTION,
            "verifier": SignatureVerifier(urls=["https://old.example", URL], secrets=[SECRET, WRONG], window=DAYS),
            "table": make_webhook_table(self.database, ENCRYPTION),
            "notify_workers": self.notified.extend,
            "chunk_size": 2,
        }
        return RejectionReverifier(database=self.database, **{**parts, **other})

    def run(self, *, is_dry: bool = False, **other: Any) -> ReverifyResult:
        """Run one."""
        return self.make(**other).run(who="alice", is_dry=is_dry, progress=self.progress.append)


@pytest.fixture
def setup(database: Database) -> ReverifySetup:
    """A reverifier whose settings have the secret that the refused webhooks are signed with."""
    return ReverifySetup(database)


def all_of(database: Database, table: type[SQLModel]) -> list[Any]:
    with database.read() as session:
        return list(session.exec(select(table)).all())


def event_ids(database: Database) -> list[str]:
    return sorted(row.event_id for row in all_of(database, WebhookRow))


def test_what_passes_now_is_admitted_as_if_it_had_just_arrived(setup: ReverifySetup, database: Database) -> None:
    """The webhook is stored with its headers, a read is requested, a worker notified, and the run audited."""
    raw = body("c1", event_id="e1")
    one = refused(raw, at=utcnow() - timedelta(days=30))
    make_store(database).insert([one])

    result = setup.run()

    (webhook,), (job,), (row,), (act,) = (
        all_of(database, table) for table in (WebhookRow, ReadRequestRow, RejectionRow, AuditRow)
    )
    assert result == ReverifyResult(admitted=1)
    assert result.is_clean
    assert (webhook.event_id, webhook.url, webhook.headers) == ("e1", URL, one.headers)
    assert raw == ENCRYPTION.decrypt_bytes(webhook.body, webhook.encrypted_with)
    assert webhook.deliveries == 1
    assert webhook.received_at > utcnow() - timedelta(minutes=5)
    assert (job.connection_id, job.requested, job.trigger) == ("c1", 1, "webhook")
    assert setup.notified == ["c1"]
    assert row.admitted_at is not None
    assert (act.who, act.act, act.details) == ("alice", "webhooks.reverified", {"admitted": 1, "repeats": 0})


def test_what_still_does_not_pass_stays(setup: ReverifySetup, database: Database) -> None:
    """Signed with an unknown secret, or not at all: it is counted by reason, and stays for another run."""
    make_store(database).insert([refused(secret="another"), noise(), noise("wrong")])

    result = setup.run()

    assert result == ReverifyResult(refused=Counter(wrong=1, missing=2), is_suspicious=True)
    assert not result.is_clean
    assert [row.admitted_at for row in rejections(database)] == [None] * 3
    assert [all_of(database, table) for table in (WebhookRow, ReadRequestRow, AuditRow)] == [[], [], []]


def test_noise_alone_is_nothing_to_look_at(setup: ReverifySetup, database: Database) -> None:
    """Anybody can send it, so it does not make the exit code 1."""
    make_store(database).insert([noise(), noise("wrong"), refused(b"x" * (MAX_REJECTED_BODY_BYTES + 1))])

    result = setup.run()

    assert (result.truncated, result.refused.total(), result.is_clean) == (1, 2, True)


@pytest.mark.parametrize(
    ("days", "verdict"),
    [(-3.9, None), (0, None), (-4.1, "too_old"), (1, "in_the_future")],
)
def test_its_time_is_held_against_when_it_came(
    setup: ReverifySetup, database: Database, days: float, verdict: str | None
) -> None:
    """However long it was stored: its signature time is compared with the time of receipt."""
    came = utcnow() - timedelta(days=20)
    make_store(database).insert([refused(at=came, signed_at=came + timedelta(days=days))])

    result = setup.run()

    assert result.refused == Counter([verdict] if verdict else [])
    assert result.admitted == (verdict is None)


def test_a_wider_window_lets_in_what_was_too_old(setup: ReverifySetup, database: Database) -> None:
    """The present settings decide, also about the accepted age."""
    came = utcnow()
    make_store(database).insert([refused(reason="too_old", at=came, signed_at=came - timedelta(days=6))])
    wide = SignatureVerifier(
        urls=[URL], secrets=[WRONG], window=TimestampWindow(timedelta(days=7), timedelta(minutes=5))
    )

    assert [setup.run().admitted, setup.run(verifier=wide).admitted] == [0, 1]


def test_each_is_admitted_once(setup: ReverifySetup, database: Database) -> None:
    """Also one that Meld has sent again, or that was refused for two reasons; a second run finds nothing."""
    raws = [body(f"c{number}", event_id=f"e{number}") for number in range(5)]
    make_store(database).insert([refused(raw) for raw in raws])
    make_store(database).insert([refused(raws[3], "too_old"), refused(raws[4], "in_the_future")])
    store(database, raws[1])

    first = setup.run()
    second = setup.run()

    assert (first.admitted, first.repeats) == (4, 3)
    assert second == ReverifyResult()
    assert event_ids(database) == ["e0", "e1", "e2", "e3", "e4"]
    assert {row.deliveries for row in all_of(database, WebhookRow)} == {1}
    assert {row.requested for row in all_of(database, ReadRequestRow)} == {1}
    noted = [row.details for row in all_of(database, AuditRow)]
    assert (sum(each["admitted"] for each in noted), sum(each["repeats"] for each in noted)) == (4, 3)


def test_a_dry_run_writes_nothing(setup: ReverifySetup, database: Database) -> None:
    """Its result is that of the real run."""
    make_store(database).insert([refused(body("c1")) for _ in range(3)] + [noise()])
    before = [row.model_dump() for row in rejections(database)]

    result = setup.run(is_dry=True)

    assert result == ReverifyResult(admitted=3, refused=Counter(missing=1))
    assert [row.model_dump() for row in rejections(database)] == before
    assert [all_of(database, table) for table in (WebhookRow, ReadRequestRow, AuditRow)] == [[], [], []]
    assert setup.notified == []


class Killed(BaseException):
    """Stands for the end of the process."""


class FailingTable:
    """A ``WebhookTable`` that raises an error, before or after the commit."""

    def __init__(self, database: Database, error: BaseException, *, is_stored: bool) -> None:
        self._table = make_webhook_table(database, ENCRYPTION)
        self._error = error
        self._is_stored = is_stored

    def insert(self, webhooks: Sequence[ReceivedWebhook]) -> list[str]:
        """Store the batch or not, then raise."""
        if self._is_stored:
            self._table.insert(webhooks)
        raise self._error

    def close(self) -> None:
        """Close the table."""
        self._table.close()


@pytest.mark.parametrize("is_stored", [True, False], ids=["after the commit", "before it"])
@pytest.mark.parametrize("error", [Killed(), OutOfReachError("The database does not answer.")])
def test_one_that_was_interrupted_is_done_again(
    setup: ReverifySetup,
    database: Database,
    error: BaseException,
    is_stored: bool,  # noqa: FBT001 - drawn
) -> None:
    """An interruption between storing and marking loses nothing, and stores nothing twice."""
    make_store(database).insert([refused(body(f"c{number}", event_id=f"e{number}")) for number in range(3)])

    with pytest.raises(type(error)):
        setup.run(table=FailingTable(database, error, is_stored=is_stored))
    between = [row.admitted_at for row in rejections(database)]
    result = setup.run()

    assert between == [None] * 3
    assert (result.admitted, result.repeats) == ((1, 2) if is_stored else (3, 0))
    assert event_ids(database) == ["e0", "e1", "e2"]
    assert {row.requested for row in all_of(database, ReadRequestRow)} == {1}
    assert all(row.admitted_at for row in rejections(database))


class RejectingTable:
    """A ``WebhookTable`` on a database that rejects one event."""

    def __init__(self, database: Database, event_id: str) -> None:
        self._table = make_webhook_table(database, ENCRYPTION)
        self._event_id = event_id

    def insert(self, webhooks: Sequence[ReceivedWebhook]) -> list[str]:
        """Store a batch, or raise if it contains that event."""
        if self._event_id in [each.hint.event_id for each in webhooks]:
            raise ValueError
        return self._table.insert(webhooks)

    def close(self) -> None:
        """Close the table."""
        self._table.close()


def test_one_that_cannot_be_stored_does_not_fail_its_batch(setup: ReverifySetup, database: Database) -> None:
    """The others are stored; all rejections of that event stay, and are counted as unstorable."""
    raws = [body("c1", event_id=f"e{number}") for number in range(4)]
    make_store(database).insert([refused(raw) for raw in raws] + [refused(raws[2], "too_old")])

    result = setup.run(table=RejectingTable(database, "e2"), chunk_size=10)

    assert (result.admitted, result.repeats, result.unstorable, result.is_clean) == (3, 0, 1, False)
    assert event_ids(database) == ["e0", "e1", "e3"]
    assert [row.event_id for row in rejections(database) if row.admitted_at is None] == ["e2", "e2"]


def test_what_cannot_be_decrypted_is_counted(setup: ReverifySetup, database: Database) -> None:
    """Its key is no longer in the settings."""
    make_store(database).insert([refused()])
    other = Encryption([SecretStr(Fernet.generate_key().decode())])

    result = setup.run(encryption=other)

    assert (result.sealed, result.admitted, result.is_clean) == (1, 0, False)


def test_later_rejections_are_left_for_the_next_run(setup: ReverifySetup, database: Database) -> None:
    """A run ends, however fast new rejections arrive."""
    store = make_store(database)
    store.insert([refused() for _ in range(5)])

    def progress(count: int) -> None:
        setup.progress.append(count)
        store.insert([refused(), refused()])

    result = setup.make().run(who="alice", is_dry=False, progress=progress)

    assert result.admitted == 5
    assert setup.progress == [2, 4, 5]
    assert len(rejections(database)) == 11


def test_a_rejection_that_was_pruned_meanwhile_is_no_error(setup: ReverifySetup, database: Database) -> None:
    """Its webhook is stored although its row is gone."""
    store = make_store(database)
    store.insert([refused() for _ in range(4)])

    def progress(_count: int) -> None:
        with database.write() as session:
            session.exec(delete(RejectionRow))

    assert setup.make().run(who="alice", is_dry=False, progress=progress).admitted == 2


def test_concurrent_repeats_do_not_deadlock(setup: ReverifySetup, database: Database) -> None:
    """A service with the wrong secret counts repeats while the command with the right one admits them."""
    raws = [body(f"c{number}", event_id=f"e{number:02}") for number in range(40)]
    store, chance, is_over = make_store(database), random.Random(1), threading.Event()
    store.insert([refused(raw) for raw in raws])
    errors: list[BaseException] = []

    def repeat() -> None:
        try:
            while not is_over.is_set():
                store.insert([refused(raw) for raw in chance.sample(raws, 30)])
        except BaseException as error:  # noqa: BLE001 - of whatever kind, it is what this looks for
            errors.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        for _ in range(8):
            setup.run(chunk_size=40)
            with database.write() as session:
                session.connection().execute(text("UPDATE rejection SET admitted_at = NULL WHERE event_id = 'e00'"))
    finally:
        is_over.set()
        thread.join()
    setup.run()

    assert errors == []
    assert event_ids(database) == [f"e{number:02}" for number in range(40)]
    assert {row.requested for row in all_of(database, ReadRequestRow)} == {1}
    assert all(row.admitted_at for row in rejections(database))

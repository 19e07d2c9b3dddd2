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
from schemas.meld.webhook import MAX_REJECTED_BODY_BYTES, ReceivedWebhook
from schemas.tables import AuditRow, ReadRequestRow, RejectionRow, WebhookRow
from service.ingest.signature import SignatureVerifier, TimestampWindow
from service.ingest.webhook_insert import table_for
from service.rejected.reverify import Reverified, Reverify
from tests.service.rejected.refused_requests import WRONG, evidence, noise, refused, rejections
from tests.support.meld_signature import SECRET, URL
from tests.support.scripted_consumer import VAULT
from tests.support.webhook_factory import body, store

DAYS = TimestampWindow(max_age=timedelta(days=4), max_skew=timedelta(minutes=5))


class Trial:
    """A reverify as a command makes it, and the workers that it called."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.calls: list[str] = []
        self.progress: list[int] = []

    def make(self, **other: Any) -> Reverify:
        """Make it."""
        parts: dict[str, Any] = {
            "vault": VAULT,
            "verifier": SignatureVerifier(urls=["https://old.example", URL], secrets=[SECRET, WRONG], window=DAYS),
            "table": table_for(self.database, VAULT),
            "call": self.calls.extend,
            "chunk": 2,
        }
        return Reverify(database=self.database, **{**parts, **other})

    def run(self, *, is_dry: bool = False, **other: Any) -> Reverified:
        """Run it."""
        return self.make(**other).run(who="alice", is_dry=is_dry, progress=self.progress.append)


@pytest.fixture
def trial(database: Database) -> Trial:
    """A reverify on each database, which knows the secret that what is refused is signed with."""
    return Trial(database)


def all_of(database: Database, table: type[SQLModel]) -> list[Any]:
    with database.read() as session:
        return list(session.exec(select(table)).all())


def event_ids(database: Database) -> list[str]:
    return sorted(row.event_id for row in all_of(database, WebhookRow))


def test_what_passes_now_is_admitted_as_if_it_had_just_arrived(trial: Trial, database: Database) -> None:
    """The webhook is stored with its evidence, its connection's read is owed and called for, and the act is noted."""
    raw = body("c1", event_id="e1")
    one = refused(raw, at=utcnow() - timedelta(days=30))
    evidence(database).keep([one])

    came_to = trial.run()

    (webhook,), (job,), (row,), (act,) = (
        all_of(database, table) for table in (WebhookRow, ReadRequestRow, RejectionRow, AuditRow)
    )
    assert came_to == Reverified(admitted=1)
    assert came_to.is_clean
    assert (webhook.event_id, webhook.url, webhook.headers) == ("e1", URL, one.headers)
    assert raw == VAULT.open_bytes(webhook.body, webhook.encrypted_with)
    assert webhook.deliveries == 1
    assert webhook.received_at > utcnow() - timedelta(minutes=5)
    assert (job.connection_id, job.requested, job.trigger) == ("c1", 1, "webhook")
    assert trial.calls == ["c1"]
    assert row.admitted_at is not None
    assert (act.who, act.act, act.details) == ("alice", "webhooks.reverified", {"admitted": 1, "repeats": 0})


def test_what_still_does_not_pass_stays(trial: Trial, database: Database) -> None:
    """Signed with a secret that nobody knows, or not at all; it is told by reason, and may be tried again."""
    evidence(database).keep([refused(secret="another"), noise(), noise("wrong")])

    came_to = trial.run()

    assert came_to == Reverified(refused=Counter(wrong=1, missing=2), is_suspicious=True)
    assert not came_to.is_clean
    assert [row.admitted_at for row in rejections(database)] == [None] * 3
    assert [all_of(database, table) for table in (WebhookRow, ReadRequestRow, AuditRow)] == [[], [], []]


def test_noise_alone_is_nothing_to_look_at(trial: Trial, database: Database) -> None:
    """Anybody can send it."""
    evidence(database).keep([noise(), noise("wrong"), refused(b"x" * (MAX_REJECTED_BODY_BYTES + 1))])

    came_to = trial.run()

    assert (came_to.truncated, came_to.refused.total(), came_to.is_clean) == (1, 2, True)


@pytest.mark.parametrize(
    ("days", "verdict"),
    [(-3.9, None), (0, None), (-4.1, "too_old"), (1, "in_the_future")],
)
def test_its_time_is_held_against_when_it_came(
    trial: Trial, database: Database, days: float, verdict: str | None
) -> None:
    """However long it has lain here: it was fresh then, or it was not."""
    came = utcnow() - timedelta(days=20)
    evidence(database).keep([refused(at=came, signed_at=came + timedelta(days=days))])

    came_to = trial.run()

    assert came_to.refused == Counter([verdict] if verdict else [])
    assert came_to.admitted == (verdict is None)


def test_a_wider_window_lets_in_what_was_too_old(trial: Trial, database: Database) -> None:
    """The present settings decide, for the window as well."""
    came = utcnow()
    evidence(database).keep([refused(reason="too_old", at=came, signed_at=came - timedelta(days=6))])
    wide = SignatureVerifier(
        urls=[URL], secrets=[WRONG], window=TimestampWindow(timedelta(days=7), timedelta(minutes=5))
    )

    assert [trial.run().admitted, trial.run(verifier=wide).admitted] == [0, 1]


def test_each_is_admitted_once(trial: Trial, database: Database) -> None:
    """Whatever Meld has sent again by itself, or was refused for two reasons; and a second run finds nothing to do."""
    raws = [body(f"c{number}", event_id=f"e{number}") for number in range(5)]
    evidence(database).keep([refused(raw) for raw in raws])
    evidence(database).keep([refused(raws[3], "too_old"), refused(raws[4], "in_the_future")])
    store(database, raws[1])

    first = trial.run()
    second = trial.run()

    assert (first.admitted, first.repeats) == (4, 3)
    assert second == Reverified()
    assert event_ids(database) == ["e0", "e1", "e2", "e3", "e4"]
    assert {row.deliveries for row in all_of(database, WebhookRow)} == {1}
    assert {row.requested for row in all_of(database, ReadRequestRow)} == {1}
    noted = [row.details for row in all_of(database, AuditRow)]
    assert (sum(each["admitted"] for each in noted), sum(each["repeats"] for each in noted)) == (4, 3)


def test_a_dry_run_writes_nothing(trial: Trial, database: Database) -> None:
    """It says what would come of it."""
    evidence(database).keep([refused(body("c1")) for _ in range(3)] + [noise()])
    before = [row.model_dump() for row in rejections(database)]

    came_to = trial.run(is_dry=True)

    assert came_to == Reverified(admitted=3, refused=Counter(missing=1))
    assert [row.model_dump() for row in rejections(database)] == before
    assert [all_of(database, table) for table in (WebhookRow, ReadRequestRow, AuditRow)] == [[], [], []]
    assert trial.calls == []


class Killed(BaseException):
    """The process is no more."""


class Failing:
    """The inbox's table, which fails as it is told to: implements ``service.ingest.inbox.WebhookTable``."""

    def __init__(self, database: Database, error: BaseException, *, is_stored: bool) -> None:
        self._table = table_for(database, VAULT)
        self._error = error
        self._is_stored = is_stored

    def insert(self, deliveries: Sequence[ReceivedWebhook]) -> list[str]:
        """Store, or not, and fail."""
        if self._is_stored:
            self._table.insert(deliveries)
        raise self._error

    def close(self) -> None:
        """Let go."""
        self._table.close()


@pytest.mark.parametrize("is_stored", [True, False], ids=["after the commit", "before it"])
@pytest.mark.parametrize("error", [Killed(), OutOfReachError("The database does not answer.")])
def test_one_that_was_interrupted_is_done_again(
    trial: Trial,
    database: Database,
    error: BaseException,
    is_stored: bool,  # noqa: FBT001 - drawn
) -> None:
    """Between storing and noting it nothing is lost, and nothing is stored twice."""
    evidence(database).keep([refused(body(f"c{number}", event_id=f"e{number}")) for number in range(3)])

    with pytest.raises(type(error)):
        trial.run(table=Failing(database, error, is_stored=is_stored))
    between = [row.admitted_at for row in rejections(database)]
    came_to = trial.run()

    assert between == [None] * 3
    assert (came_to.admitted, came_to.repeats) == ((1, 2) if is_stored else (3, 0))
    assert event_ids(database) == ["e0", "e1", "e2"]
    assert {row.requested for row in all_of(database, ReadRequestRow)} == {1}
    assert all(row.admitted_at for row in rejections(database))


class Choosy:
    """The inbox's table on a database that refuses one event: implements ``service.ingest.inbox.WebhookTable``."""

    def __init__(self, database: Database, event_id: str) -> None:
        self._table = table_for(database, VAULT)
        self._event_id = event_id

    def insert(self, deliveries: Sequence[ReceivedWebhook]) -> list[str]:
        """Store a batch, unless that one is in it."""
        if self._event_id in [each.hint.event_id for each in deliveries]:
            raise ValueError
        return self._table.insert(deliveries)

    def close(self) -> None:
        """Let go."""
        self._table.close()


def test_one_that_cannot_be_stored_keeps_nobody_out(trial: Trial, database: Database) -> None:
    """The others of its commit are stored; it stays refused, under whatever reason, and is told."""
    raws = [body("c1", event_id=f"e{number}") for number in range(4)]
    evidence(database).keep([refused(raw) for raw in raws] + [refused(raws[2], "too_old")])

    came_to = trial.run(table=Choosy(database, "e2"), chunk=10)

    assert (came_to.admitted, came_to.repeats, came_to.unstorable, came_to.is_clean) == (3, 0, 1, False)
    assert event_ids(database) == ["e0", "e1", "e3"]
    assert [row.event_id for row in rejections(database) if row.admitted_at is None] == ["e2", "e2"]


def test_what_cannot_be_opened_is_told(trial: Trial, database: Database) -> None:
    """Sealed with a key that is no longer set; everything else is tried."""
    evidence(database).keep([refused()])
    other = Encryption([SecretStr(Fernet.generate_key().decode())])

    came_to = trial.run(vault=other)

    assert (came_to.sealed, came_to.admitted, came_to.is_clean) == (1, 0, False)


def test_what_is_refused_meanwhile_is_left_for_the_next(trial: Trial, database: Database) -> None:
    """However fast it comes, a run ends."""
    kept = evidence(database)
    kept.keep([refused() for _ in range(5)])

    def progress(count: int) -> None:
        trial.progress.append(count)
        kept.keep([refused(), refused()])

    came_to = trial.make().run(who="alice", is_dry=False, progress=progress)

    assert came_to.admitted == 5
    assert trial.progress == [2, 4, 5]
    assert len(rejections(database)) == 11


def test_what_was_pruned_meanwhile_is_no_error(trial: Trial, database: Database) -> None:
    """A row that is gone when it is noted was stored all the same."""
    kept = evidence(database)
    kept.keep([refused() for _ in range(4)])

    def progress(_count: int) -> None:
        with database.write() as session:
            session.exec(delete(RejectionRow))

    assert trial.make().run(who="alice", is_dry=False, progress=progress).admitted == 2


def test_retries_that_are_refused_meanwhile_block_nobody(trial: Trial, database: Database) -> None:
    """A service that still has the wrong secret counts them, while a command that has the right one admits them."""
    raws = [body(f"c{number}", event_id=f"e{number:02}") for number in range(40)]
    kept, chance, is_over = evidence(database), random.Random(1), threading.Event()
    kept.keep([refused(raw) for raw in raws])
    errors: list[BaseException] = []

    def repeat() -> None:
        try:
            while not is_over.is_set():
                kept.keep([refused(raw) for raw in chance.sample(raws, 30)])
        except BaseException as error:  # noqa: BLE001 - of whatever kind, it is what this looks for
            errors.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        for _ in range(8):
            trial.run(chunk=40)
            with database.write() as session:
                session.connection().execute(text("UPDATE rejection SET admitted_at = NULL WHERE event_id = 'e00'"))
    finally:
        is_over.set()
        thread.join()
    trial.run()

    assert errors == []
    assert event_ids(database) == [f"e{number:02}" for number in range(40)]
    assert {row.requested for row in all_of(database, ReadRequestRow)} == {1}
    assert all(row.admitted_at for row in rejections(database))

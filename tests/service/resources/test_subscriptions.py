import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from runtime.database import Database
from runtime.errors import EncryptionError
from runtime.security.encryption import Encryption
from schemas.api_queries import SubscriptionQuery
from schemas.push import PushResult
from schemas.subscriptions import NewSubscription, SubscriptionChange
from schemas.tables import DeliveryQueueRow, DeliveryRow, SubscriptionRow
from service.errors import InvalidBodyError
from service.scheduler.due_deliveries import mark_due_subscriptions
from service.subscriptions.manage import SubscriptionManager
from tests.service.conftest import Api, AppFactory
from tests.support.encryption_keys import OLD
from tests.support.polling import eventually
from tests.support.scripted_consumer import (
    ENCRYPTION,
    ScriptedConsumer,
    deliveries,
    delivery_queues,
    emit,
    make_dispatcher,
    subscribe,
    subscription,
)
from workers.delivery.backoff import GIVE_UP_SECONDS

URL = "https://consumer.example/events"


def create(api: Api, name: str = "crm", **fields: Any) -> Any:
    answer = api.admin.post("/api/subscriptions", json={"name": name, "url": URL, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


def problem(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["detail"]


def patch(api: Api, id_: str, **fields: Any) -> Any:
    answer = api.admin.patch(f"/api/subscriptions/{id_}", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_secret_is_shown_once_and_stored_encrypted(api: Api) -> None:
    """Only the response that creates a subscription shows its secret; no other response and no row does."""
    created = create(api)
    secret = created.pop("secret")
    shown = api.admin.get(f"/api/subscriptions/{created['id']}")
    listed = api.admin.get("/api/subscriptions")
    row = subscription(api.database, created["id"])

    assert secret.startswith("whsec_")
    assert shown.json() == created
    assert listed.json() == {"subscriptions": [created], "next": None}
    assert (created["state"], created["failing"], created["types"], created["after_position"]) == (
        "active",
        False,
        [],
        0,
    )
    assert secret not in shown.text + listed.text + row.model_dump_json()
    assert ENCRYPTION.decrypt(row.secret) == secret


def test_subscriptions_need_an_admin_token(api: Api) -> None:
    """A read token may read deliveries, but no subscriptions."""
    id_ = create(api)["id"]
    paths = ["/api/subscriptions", f"/api/subscriptions/{id_}"]

    assert [api.reader.get(path).status_code for path in paths] == [403, 403]
    assert api.reader.post("/api/subscriptions", json={}).status_code == 403
    assert api.reader.get("/api/deliveries").status_code == 200
    assert api.anonymous.get("/api/deliveries").status_code == 401


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "http://consumer.example"}, "Without TLS"),
        ({"url": "https://localhost/x"}, "not public"),
        ({"url": "https://inside.example/x"}, "not public"),
        ({"url": "https://nowhere.example/x"}, "cannot be resolved"),
        ({"url": "ftp://x"}, "https://"),
        ({"url": "python:mine.f"}, "MELDWATCH_HANDLERS"),
        ({"url": ""}, "'url'"),
        ({"name": ""}, "'name'"),
        ({"name": "x" * 101}, "'name'"),
        ({"name": "a\nb"}, "'name'"),
        ({"types": ["nonsense"]}, "'types.0'"),
        ({"types": "connection.status_changed"}, "'types'"),
        ({"from_position": -1}, "'from_position'"),
        ({"from_position": 1}, "last position of the feed is 0"),
        ({"secret": "mine"}, "'secret' is an unknown field"),
    ],
)
def test_invalid_requests_are_refused(api: Api, fields: dict[str, Any], message: str) -> None:
    """422 with what to correct, and nothing is stored."""
    answer = api.admin.post("/api/subscriptions", json={"name": "crm", "url": URL, **fields})

    assert problem(answer)[0] == 422
    assert message in problem(answer)[1]
    assert api.admin.get("/api/subscriptions").json()["subscriptions"] == []


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        (("PATCH", {"url": URL}), 409, "mine.f is a handler in Python"),
        (("PATCH", {"types": []}), 409, "@on"),
        (("PATCH", {"url": "python:mine.g"}), 422, "MELDWATCH_HANDLERS"),
        (("POST", None), 409, "no secret"),
    ],
)
def test_url_types_and_secret_of_a_handler_cannot_change(
    api: Api, call: tuple[str, dict[str, Any] | None], status: int, message: str
) -> None:
    """Its URL, types and secret cannot change; it can be shown, paused, resumed, redriven and removed."""
    subscribe(api.database, "h1", name="mine.f", url="python:mine.f", secret="")
    before = subscription(api.database, "h1")
    method, body = call
    refused = api.admin.request(method, f"/api/subscriptions/h1{'' if body else '/rotate'}", json=body)
    after = subscription(api.database, "h1")
    shown = api.admin.get("/api/subscriptions/mine.f").json()
    states = [patch(api, "h1", state=state)["state"] for state in ("paused", "active")]
    redriven = api.admin.post("/api/subscriptions/h1/redrive").json()

    assert (problem(refused)[0], message in problem(refused)[1]) == (status, True)
    assert after == before
    assert (shown["name"], shown["url"]) == ("mine.f", "python:mine.f")
    assert (states, redriven["redriven"]) == (["paused", "active"], 0)
    assert api.admin.delete("/api/subscriptions/h1").status_code == 204


def test_a_consumer_cannot_become_a_handler(api: Api) -> None:
    """A handler's URL is refused for new and changed subscriptions."""
    answer = api.admin.patch(f"/api/subscriptions/{create(api)['id']}", json={"url": "python:mine.f"})

    assert problem(answer)[0] == 422


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b'{"name": "\xff"}', b"null", b"{" * 5000])
def test_a_body_that_is_not_an_object_is_refused(api: Api, body: bytes) -> None:
    """With 422."""
    answer = api.admin.post("/api/subscriptions", content=body)

    assert problem(answer)[0] == 422


def test_a_large_body_is_refused(api: Api) -> None:
    """With 413, before it is parsed."""
    assert problem(api.admin.post("/api/subscriptions", content=b" " * 70_000))[0] == 413


def test_names_are_unique(api: Api) -> None:
    """409, and the first subscription is unchanged."""
    first = create(api)
    answer = api.admin.post("/api/subscriptions", json={"name": "crm", "url": URL})

    assert problem(answer) == (409, "There is a subscription 'crm' already. Choose another name.")
    assert subscription(api.database, first["id"]).name == "crm"


def test_without_a_key_no_subscription_is_created(database: Database) -> None:
    """Closed by default: the message names the setting and says how to make a key."""
    closed = AppFactory(database=database).subscription_manager(Encryption([]))

    with pytest.raises(EncryptionError, match=r"MELDWATCH_ENCRYPTION_KEYS is not set.*openssl"):
        closed.create(NewSubscription(name="crm", url=URL), who="alice")
    with database.read() as session:
        assert session.exec(select(SubscriptionRow)).all() == []


def test_a_subscription_gets_events_after_its_creation(api: Api) -> None:
    """With ``from_position``, it gets the events after that position, in order."""
    emit(api.database, "c1", "c2", "c1")
    now, early = create(api, "now"), create(api, "early", from_position=1)
    typed = create(api, "typed", from_position=0, types=["connection.primary_duplicate_moved"])
    emit(api.database, "c1")
    pending = [(row.subscription_id, row.position) for row in deliveries(api.database)]
    consumer = ScriptedConsumer(early["secret"])
    make_dispatcher(api.database, consumer).deliver(early["id"])

    assert sorted(position for id_, position in pending if id_ == now["id"]) == [4]
    assert sorted(position for id_, position in pending if id_ == early["id"]) == [2, 3, 4]
    assert [id_ for id_, _position in pending if id_ == typed["id"]] == []
    assert sorted(consumer.event_ids) == ["event-2", "event-3", "event-4"]
    assert consumer.event_ids.index("event-3") < consumer.event_ids.index("event-4")


def test_the_backfill_is_bounded(database: Database) -> None:
    """It is one transaction: a larger backfill is refused, and nothing is stored."""
    emit(database, "c1", "c2", "c3")
    manager = AppFactory(database=database).subscription_manager(max_backfill_events=2)
    with pytest.raises(InvalidBodyError, match="3 events lie behind it"):
        manager.create(NewSubscription(name="all", url=URL, from_position=0), who="alice")
    manager.create(NewSubscription(name="some", url=URL, from_position=1), who="alice")

    assert [each.name for each in manager.list_page(SubscriptionQuery()).subscriptions] == ["some"]
    assert [row.position for row in deliveries(database)] == [2, 3]


def test_an_id_takes_precedence_over_a_name(api: Api) -> None:
    """If the name of one subscription is the id of another."""
    first = create(api)
    create(api, first["id"])

    assert api.admin.get(f"/api/subscriptions/{first['id']}").json()["name"] == "crm"
    assert api.admin.get("/api/subscriptions/crm").json()["id"] == first["id"]


def test_no_event_is_missed_during_a_creation(database: Database) -> None:
    """Each subscription gets every event after its position once, also those appended during its creation."""
    manager = AppFactory(database=database).subscription_manager()
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            emit(database, "c1", "c2")

    writer = threading.Thread(target=write)
    writer.start()
    created = [manager.create(NewSubscription(name=f"n{number}", url=URL), who="alice") for number in range(10)]
    ended.set()
    writer.join()
    emit(database, "c1")

    rows = deliveries(database)
    last = max(row.position for row in rows)
    for each in created:
        got = sorted(row.position for row in rows if row.subscription_id == each.id)
        assert got == list(range(each.after_position + 1, last + 1))


def test_a_paused_subscription_gets_no_events(api: Api) -> None:
    """When it is active again, it gets the events that it missed."""
    created = create(api)
    id_ = created["id"]
    paused = patch(api, id_, state="paused")
    events = emit(api.database, "c1", "c1")
    consumer = ScriptedConsumer(created["secret"])
    make_dispatcher(api.database, consumer).deliver(id_)
    during = list(consumer.event_ids)
    active = patch(api, id_, state="active")
    make_dispatcher(api.database, consumer).deliver(id_)

    assert (paused["state"], active["state"], active["paused_at"]) == ("paused", "active", None)
    assert (during, consumer.event_ids) == ([], events)


def test_activation_retries_at_once(api: Api) -> None:
    """A disabled or failing subscription is retried at once, and its attempts begin at 0."""
    id_ = create(api)["id"]
    emit(api.database, "c1")
    with api.database.write() as session:
        session.exec(update(DeliveryRow).values(attempts=6, tried_at=datetime.now(UTC) - timedelta(days=9)))
        session.exec(update(DeliveryQueueRow).values(due_at=datetime.now(UTC) + timedelta(hours=6)))
        now = datetime.now(UTC)
        session.exec(update(SubscriptionRow).values(disabled_at=now, failing_since=now - timedelta(days=2), error="x"))
    disabled = api.admin.get(f"/api/subscriptions/{id_}").json()
    active = patch(api, id_, state="active")
    (row,), (queue,) = deliveries(api.database), delivery_queues(api.database)

    assert (disabled["state"], disabled["failing"], disabled["error"]) == ("disabled", True, "x")
    assert (active["state"], active["failing"], active["failing_since"], active["error"]) == (
        "active",
        False,
        None,
        None,
    )
    assert (row.attempts, row.tried_at) == (0, None)
    assert queue.due_at is not None
    assert queue.due_at <= datetime.now(UTC) + timedelta(seconds=1)


def test_a_change_keeps_other_fields(api: Api) -> None:
    """A new URL is checked as for a new subscription."""
    before = create(api, types=["connection.status_changed"])
    after = patch(api, before["id"], url="https://other.example/", types=[])
    refused = api.admin.patch(f"/api/subscriptions/{before['id']}", json={"url": "https://localhost/"})
    invalid = api.admin.patch(f"/api/subscriptions/{before['id']}", json={"state": "disabled"})

    del before["secret"]
    assert after == {**before, "url": "https://other.example/", "types": []}
    assert (refused.status_code, invalid.status_code) == (422, 422)
    assert subscription(api.database, before["id"]).url == "https://other.example/"


def test_previous_secrets_sign_for_a_day(api: Api) -> None:
    """The new secret is shown once; each previous secret also signs for a day, also after another rotation."""
    first = create(api)
    second = api.admin.post(f"/api/subscriptions/{first['id']}/rotate").json()
    third = api.admin.post(f"/api/subscriptions/{first['id']}/rotate").json()
    row = subscription(api.database, first["id"])

    assert ENCRYPTION.decrypt(row.secret) == third["secret"]
    assert [ENCRYPTION.decrypt(old["sealed"]) for old in row.previous_secrets] == [second["secret"], first["secret"]]
    for old in row.previous_secrets:
        left = datetime.fromisoformat(old["until"]) - datetime.now(UTC)
        assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24, seconds=1)


def test_a_rotation_drops_secrets_that_no_key_decrypts(api: Api) -> None:
    """A previous secret whose key is lost would make every push fail: only the new secret signs."""
    first = create(api)
    lost = Encryption([OLD]).encrypt("whsec_lost")
    with api.database.write() as session:
        session.exec(update(SubscriptionRow).values(secret=lost))
    emit(api.database, "c1")

    new = api.admin.post(f"/api/subscriptions/{first['id']}/rotate").json()["secret"]
    consumer = ScriptedConsumer(new)
    make_dispatcher(api.database, consumer).deliver(first["id"])

    assert subscription(api.database, first["id"]).previous_secrets == []
    assert len(consumer.pushes) == 1


def test_dead_deliveries_are_redriven(api: Api) -> None:
    """Dead deliveries are retried in order, before the pending ones."""
    created = create(api)
    id_ = created["id"]
    first, second, third = emit(api.database, "c1", "c1", "c1")
    with api.database.write() as session:
        long_ago = datetime.now(UTC) - timedelta(seconds=GIVE_UP_SECONDS + 9)
        dead = update(DeliveryRow).where(col(DeliveryRow.event_id).in_([first, second]))
        session.exec(dead.values(dead_at=long_ago, tried_at=long_ago, attempts=17))
    listed = api.reader.get("/api/deliveries", params={"state": "dead"}).json()["deliveries"]
    receipt = api.admin.post(f"/api/subscriptions/{id_}/redrive").json()
    consumer = ScriptedConsumer(created["secret"])
    make_dispatcher(api.database, consumer).deliver(id_)

    assert [row["event_id"] for row in listed] == [first, second]
    assert receipt == {"subscription_id": id_, "redriven": 2}
    assert consumer.event_ids == [first, second, third]
    assert api.admin.post(f"/api/subscriptions/{id_}/redrive").json()["redriven"] == 0


def test_a_removal_deletes_queues_and_deliveries(api: Api) -> None:
    """204, then 404; queues and deliveries of other subscriptions stay."""
    gone, stays = create(api, "gone")["id"], create(api, "stays")["id"]
    emit(api.database, "c1")
    answer = api.admin.delete(f"/api/subscriptions/{gone}")

    assert (answer.status_code, answer.content) == (204, b"")
    assert api.admin.get(f"/api/subscriptions/{gone}").status_code == 404
    left: list[Any] = [*deliveries(api.database), *delivery_queues(api.database)]
    assert {row.subscription_id for row in left} == {stays}


def test_the_result_of_a_push_to_a_removed_subscription_is_discarded(api: Api) -> None:
    """The subscription is removed while a push is under way."""
    created = create(api)
    id_ = created["id"]
    (event,) = emit(api.database, "c1")
    consumer = ScriptedConsumer(created["secret"])

    def remove() -> Any:
        api.admin.delete(f"/api/subscriptions/{id_}")
        return consumer.default_answer

    consumer.answers[event] = remove
    make_dispatcher(api.database, consumer).deliver(id_)

    assert (deliveries(api.database), delivery_queues(api.database)) == ([], [])


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/redrive")]
)
def test_unknown_ids_are_404(api: Api, method: str, path: str) -> None:
    """The error says where to look."""
    answer = api.admin.request(method, f"/api/subscriptions/nobody{path}", json={} if method == "PATCH" else None)

    assert problem(answer)[0] == 404
    assert "/api/subscriptions" in problem(answer)[1]


def test_subscriptions_are_listed_by_name(api: Api) -> None:
    """Page by page."""
    for name in ("b", "a", "c"):
        create(api, name)
    first = api.admin.get("/api/subscriptions", params={"limit": 2}).json()
    second = api.admin.get("/api/subscriptions", params={"limit": 2, "after": first["next"]}).json()

    assert [row["name"] for row in first["subscriptions"]] == ["a", "b"]
    assert [row["name"] for row in second["subscriptions"]] == ["c"]
    assert second["next"] is None


def make_rotation(
    manager: SubscriptionManager, consumer: ScriptedConsumer, rng: random.Random, ids: list[str]
) -> Callable[[], None]:
    """Return a function that rotates the secret of a subscription and adds it to the consumer's."""

    def rotate() -> None:
        new = manager.rotate_secret(rng.choice(ids), who="alice").secret
        # The last 30: older secrets no longer sign.
        consumer.secrets = (new, *consumer.secrets)[:30]

    return rotate


def test_concurrent_changes_do_not_deadlock(database: Database) -> None:
    """Events, pushes, resumes, redrives, rotations and the scheduler run at once."""
    manager = AppFactory(database=database).subscription_manager()
    created = [manager.create(NewSubscription(name=name, url=URL), who="alice") for name in ("a", "b", "c")]
    ids = [each.id for each in created]
    names = [f"c{number}" for number in range(8)]
    rng = random.Random(4)
    emissions = iter(range(1, 16))
    consumer = ScriptedConsumer(*(each.secret for each in created))
    consumer.default_answer = lambda: rng.choice([PushResult(200), PushResult(500, "no")])
    rotate = make_rotation(manager, consumer, rng, ids)
    process = make_dispatcher(database, consumer)
    ended = threading.Event()
    errors: list[BaseException] = []

    def notify_due() -> None:
        with database.write() as session:
            mark_due_subscriptions(database, session)

    actions: list[Callable[[], object]] = [
        lambda: next(emissions, None) and emit(database, *rng.sample(names, 4)),
        lambda: process.deliver(rng.choice(ids)),
        lambda: process.deliver(rng.choice(ids)),
        lambda: manager.update(rng.choice(ids), SubscriptionChange(state="active"), who="alice"),
        lambda: (manager.redrive(rng.choice(ids), who="alice"), rotate()),
        lambda: (notify_due(), process.release_leases()),
    ]

    def repeat(action: Callable[[], object]) -> None:
        try:
            while not ended.is_set():
                action()
        except BaseException as error:  # noqa: BLE001 - any error fails the test
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    eventually(lambda: errors or len(consumer.pushes) > 80, 30)
    ended.set()
    for thread in threads:
        thread.join()
    consumer.default_answer = PushResult(200)
    for id_ in ids:
        manager.update(id_, SubscriptionChange(state="active"), who="alice")

    def is_done() -> bool:
        for id_ in ids:
            process.deliver(id_)
        return not any(queue.due_at for queue in delivery_queues(database))

    eventually(is_done, 60)
    assert errors == []
    assert all(row.delivered_at for row in deliveries(database))

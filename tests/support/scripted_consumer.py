"""Subscribers for tests: rows, a scripted consumer that implements the sender's port, and a real one on a socket."""

import itertools
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from sqlmodel import col, select

from runtime.clock import Clock, utcnow
from runtime.database import Database
from runtime.metrics import Metrics
from runtime.queues.deliveries import hold_feed
from runtime.security.encryption import Encryption
from schemas.handler_protocol import name_of
from schemas.push import Receipt
from schemas.tables import DeliveryQueueRow, DeliveryRow, FeedCounterRow, SubscriptionRow
from tests.support import row_factory
from tests.support.encryption_keys import VAULT
from tests.support.push_acceptance import accept, accept_unsigned
from workers.delivery.dispatcher import DeliveryDispatcher, DeliverySender
from workers.events.fan_out import owe

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TAKEN = Receipt(200)
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Pushed:
    """One push, as a consumer gets it."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        """The event's id, which is the push's."""
        return self.headers["webhook-id"]


class ScriptedConsumer:
    """Takes every push, or does with one what was scripted for its event: a receipt, or a function that makes one.

    One that a consumer would have to refuse fails the test.

    Args:
        secrets: The secrets of its subscriptions.
    """

    def __init__(self, *secrets: str) -> None:
        self.secrets = secrets or (SECRET,)
        self.pushes: list[Pushed] = []
        self.answers: dict[str, Receipt | Callable[[], Receipt]] = {}
        self.usual: Receipt | Callable[[], Receipt] = TAKEN
        self._lock = threading.Lock()

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Answer as scripted."""
        if name_of(url) is None:
            accept(headers, body, self.secrets)
        else:
            accept_unsigned(headers, body)
        pushed = Pushed(url, headers, body)
        with self._lock:
            self.pushes.append(pushed)
            answer = self.answers.get(pushed.event_id, self.usual)
        return answer() if callable(answer) else answer

    @property
    def event_ids(self) -> list[str]:
        """The events that were pushed, in order."""
        return [pushed.event_id for pushed in self.pushes]


def deliver_on(
    database: Database,
    sender: DeliverySender | None = None,
    calls: list[str] | None = None,
    *,
    clock: Clock = utcnow,
    vault: Encryption = VAULT,
    lease_seconds: float = 30,
    threads: int = 8,
    metrics: Metrics | None = None,
    call: Callable[[Collection[str]], None] | None = None,
    **options: float,
) -> DeliveryDispatcher:
    """Return what delivers, as a process would make it."""
    return DeliveryDispatcher(
        database=database,
        sender=sender or ScriptedConsumer(),
        vault=vault,
        call=call or (calls if calls is not None else []).extend,
        clock=clock,
        lease_seconds=lease_seconds,
        token=lambda: f"push {next(_NUMBERS)}",
        jitter=lambda: 0.0,
        metrics=metrics or Metrics(),
        threads=threads,
        **options,
    )


def subscribe(database: Database, id_: str = "s1", **values: Any) -> None:
    """Store a subscription to everything that comes from now on."""
    usual: dict[str, Any] = {
        "name": f"name of {id_}",
        "url": "https://consumer.example/events",
        "types": [],
        "secret": VAULT.seal(SECRET),
        "after_position": 0,
        "created_at": row_factory.TIME,
    }
    row_factory.store(database, SubscriptionRow(id=id_, **{**usual, **values}))


def emit(database: Database, *connection_ids: str, type_: str = "connection.status_changed") -> list[str]:
    """Append an event of each connection to the feed, and owe it as the workers do; return the events' ids."""
    with database.write() as session:
        position = hold_feed(session)
        events = []
        for connection_id in connection_ids:
            position += 1
            event = row_factory.event(position, connection_id, type=type_)
            events.append(event.model_dump())
            session.add(event)
        counter = session.get_one(FeedCounterRow, "feed")
        counter.value = position
        session.flush()
        owe(database, session, events)
    return [event["id"] for event in events]


def deliveries(database: Database) -> Sequence[DeliveryRow]:
    """Return all deliveries, in order."""
    with database.read() as session:
        return session.exec(select(DeliveryRow).order_by(col(DeliveryRow.id))).all()


def lanes(database: Database) -> Sequence[DeliveryQueueRow]:
    """Return all lanes."""
    with database.read() as session:
        return session.exec(
            select(DeliveryQueueRow).order_by(
                col(DeliveryQueueRow.subscription_id), col(DeliveryQueueRow.connection_id)
            )
        ).all()


def subscription(database: Database, id_: str = "s1") -> SubscriptionRow:
    """Return a subscription."""
    with database.read() as session:
        return session.exec(select(SubscriptionRow).where(SubscriptionRow.id == id_)).one()


def at_once(count: int, work: Callable[[], object]) -> None:
    """Do a thing in several threads at once, and wait for all of them."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Consumer:
    """A real consumer on a socket of this machine: keeps what it gets, and answers as it is told.

    One push that a consumer would have to refuse fails the test, at the end.

    Attributes:
        secrets: The secrets of its subscriptions.
        pushes: What came, in order.
        statuses: What the next requests are answered with; then 200.
        seconds: How long it takes over an answer.
    """

    def __init__(self) -> None:
        self.secrets: list[str] = []
        self.pushes: list[Pushed] = []
        self.times: list[float] = []
        self.statuses: list[int] = []
        self.seconds = 0.0
        self.gate = threading.Event()
        self.gate.set()
        consumer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    return  # the sender died
                headers = {name.lower(): value for name, value in self.headers.items()}
                consumer.pushes.append(Pushed(self.path, headers, body))
                consumer.times.append(time.monotonic())
                consumer.gate.wait(30)
                threading.Event().wait(consumer.seconds)
                status = consumer.statuses.pop(0) if consumer.statuses else 200
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/events"

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """End, and look at all that came."""
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for pushed in self.pushes:
            accept(pushed.headers, pushed.body, self.secrets)

    def event_ids(self) -> Collection[str]:
        """Return the events that came, in order."""
        return [pushed.headers["webhook-id"] for pushed in self.pushes]

"""Event consumers for tests: a scripted one that replaces the push sender, a real HTTP server, subscription rows."""

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
from runtime.queues.deliveries import lock_feed
from runtime.security.encryption import Encryption
from schemas.handler_protocol import parse_handler_name
from schemas.push import PushResult
from schemas.tables import DeliveryQueueRow, DeliveryRow, FeedCounterRow, SubscriptionRow
from tests.support import row_factory
from tests.support.encryption_keys import ENCRYPTION
from tests.support.push_acceptance import assert_acceptable, assert_acceptable_unsigned
from workers.delivery.dispatcher import DeliveryDispatcher
from workers.delivery.transport import PushSender
from workers.events.fan_out import fan_out

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ACKNOWLEDGED = PushResult(200)
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class ReceivedPush:
    """One push, as a consumer receives it."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        """The event's id."""
        return self.headers["webhook-id"]


class ScriptedConsumer:
    """Acknowledges every push, or returns the result that a test has set for an event or for all.

    A result is a value, or a function that returns one. The test fails if a push is one that a consumer must reject
    (signature, schema).

    Args:
        secrets: The secrets of its subscriptions.
    """

    def __init__(self, *secrets: str) -> None:
        self.secrets = secrets or (SECRET,)
        self.pushes: list[ReceivedPush] = []
        self.answers: dict[str, PushResult | Callable[[], PushResult]] = {}
        self.default_answer: PushResult | Callable[[], PushResult] = ACKNOWLEDGED
        self._lock = threading.Lock()

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> PushResult:
        """Answer as scripted."""
        if parse_handler_name(url) is None:
            assert_acceptable(headers, body, self.secrets)
        else:
            assert_acceptable_unsigned(headers, body)
        pushed = ReceivedPush(url, headers, body)
        with self._lock:
            self.pushes.append(pushed)
            answer = self.answers.get(pushed.event_id, self.default_answer)
        return answer() if callable(answer) else answer

    @property
    def event_ids(self) -> list[str]:
        """The events that were pushed, in order."""
        return [pushed.event_id for pushed in self.pushes]


def make_dispatcher(
    database: Database,
    sender: PushSender | None = None,
    notified: list[str] | None = None,
    *,
    clock: Clock = utcnow,
    encryption: Encryption = ENCRYPTION,
    lease_seconds: float = 30,
    threads: int = 8,
    metrics: Metrics | None = None,
    notify: Callable[[Collection[str]], None] | None = None,
    **options: float,
) -> DeliveryDispatcher:
    """Return a dispatcher, wired as a process would do it, but without jitter; ``notified`` collects its messages."""
    return DeliveryDispatcher(
        database=database,
        sender=sender or ScriptedConsumer(),
        encryption=encryption,
        notify=notify or (notified if notified is not None else []).extend,
        clock=clock,
        lease_seconds=lease_seconds,
        new_token=lambda: f"push {next(_NUMBERS)}",
        jitter=lambda: 0.0,
        metrics=metrics or Metrics(),
        threads=threads,
        **options,
    )


def subscribe(database: Database, id_: str = "s1", **values: Any) -> None:
    """Insert a subscription to all event types."""
    usual: dict[str, Any] = {
        "name": f"name of {id_}",
        "url": "https://consumer.example/events",
        "types": [],
        "secret": ENCRYPTION.encrypt(SECRET),
        "after_position": 0,
        "created_at": row_factory.TIME,
    }
    row_factory.store(database, SubscriptionRow(id=id_, **{**usual, **values}))


def emit(database: Database, *connection_ids: str, type_: str = "connection.status_changed") -> list[str]:
    """Append an event of each connection to the feed, and fan it out to the outbox; return the events' ids."""
    with database.write() as session:
        position = lock_feed(session)
        events = []
        for connection_id in connection_ids:
            position += 1
            event = row_factory.event(position, connection_id, type=type_)
            events.append(event.model_dump())
            session.add(event)
        counter = session.get_one(FeedCounterRow, "feed")
        counter.value = position
        session.flush()
        fan_out(database, session, events)
    return [event["id"] for event in events]


def deliveries(database: Database) -> Sequence[DeliveryRow]:
    """Return all deliveries, in order."""
    with database.read() as session:
        return session.exec(select(DeliveryRow).order_by(col(DeliveryRow.id))).all()


def delivery_queues(database: Database) -> Sequence[DeliveryQueueRow]:
    """Return all delivery queues."""
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


def run_in_threads(count: int, work: Callable[[], object]) -> None:
    """Run a function in several threads at once, and wait for all of them."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class HttpConsumer:
    """A real HTTP server on a local port that keeps the pushes and answers as a test has set.

    On exit the test fails if any push is one that a consumer must reject.

    Attributes:
        secrets: The secrets of its subscriptions.
        pushes: The pushes, in the order of their arrival.
        times: When each arrived, on the monotonic clock.
        statuses: The status codes of the next answers; after them 200.
        seconds: The delay of every answer.
        may_answer: Answers wait while this event is cleared.
    """

    def __init__(self) -> None:
        self.secrets: list[str] = []
        self.pushes: list[ReceivedPush] = []
        self.times: list[float] = []
        self.statuses: list[int] = []
        self.seconds = 0.0
        self.may_answer = threading.Event()
        self.may_answer.set()
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
                consumer.pushes.append(ReceivedPush(self.path, headers, body))
                consumer.times.append(time.monotonic())
                consumer.may_answer.wait(30)
                threading.Event().wait(consumer.seconds)
                status = consumer.statuses.pop(0) if consumer.statuses else 200
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Write no log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/events"

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop, and check all pushes."""
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for pushed in self.pushes:
            assert_acceptable(pushed.headers, pushed.body, self.secrets)

    def event_ids(self) -> Collection[str]:
        """Return the ids of the pushed events, in the order of their arrival."""
        return [pushed.headers["webhook-id"] for pushed in self.pushes]

"""A random history: the real refetch, inbox, scheduler and reconcile on a real database, with a faulty Meld.

Everything runs in one thread and in manual time, but concurrently: while a read of Meld is in progress, webhooks
arrive, other reads begin and end, and the scheduler runs. The seed determines everything, so a failure is reproducible.
"""

import itertools
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import heappop, heappush
from random import Random

from sqlmodel import col, select

from runtime.database import Database
from runtime.metrics import Metrics
from runtime.queues import circuit_breaker
from runtime.queues import reads as read_queue
from runtime.security.lenient_json import parse_json
from runtime.security.redaction import redact
from runtime.settings import Settings
from schemas.meld.connection import Snapshot
from schemas.meld.read_outcome import Absent, Found, ListPage, PageOutcome, ReadOutcome, Refused, Throttled, Unavailable
from schemas.meld.webhook import CONNECTION_DELETED, ReceivedWebhook
from schemas.tables import ReadRequestRow
from service.ingest.payload import parse_hint
from service.ingest.webhook_insert import make_webhook_table
from service.reconcile.run import Reconciler
from service.scheduler.loop import Scheduler
from simulator.activity.population import connect_group
from simulator.activity.random_activity import RandomActivity
from simulator.errors import AbsentError
from simulator.faults.read_script import ScriptedRead
from simulator.faults.settings import NO_FAULTS, Faults
from simulator.world.new_connection import NewConnection
from simulator.world.pagination import parse_list_query
from simulator.world.vocabulary import HEALTHY
from simulator.world.webhook_payloads import WebhookEvent, compact_json
from simulator.world.world import World
from tests.end_to_end.manual_time import Clock, empty
from tests.end_to_end.mirror_oracle import differences
from tests.support.encryption_keys import ENCRYPTION
from workers.refetch.bulk_import import BulkImport
from workers.refetch.refetch import Refetcher
from workers.retention.prune import Prune
from workers.retention.rules import KINDS

FAULTS = Faults(
    slow="0.1:40", stale="0.25:20", throttled="0.05:3", failing=0.05, hanging=0.03, cut=0.03, refused=0.01, shifted=0.2
)
"""How reads fail. Some take longer than a lease; stale answers are younger than ``MAX_API_LAG_SECONDS``."""

CRASH_RATE = 0.03
"""The share of reads during which the worker crashes."""

ARRIVAL_RATE = 0.6
MESSAGE_LOSS_RATE = 0.2
LEASE_SECONDS = 30.0
HANG_DURATION = timedelta(seconds=15)
MAX_CONCURRENT_READS = 3
"""The maximum number of concurrent reads."""

QUIET_SECONDS = 6 * 3600.0
"""The time after the last change, in which connections that expire without a webhook are read."""

SCHEDULER_INTERVAL_SECONDS = 1800.0
MAX_STEPS = 20_000


class KilledError(BaseException):
    """The worker process crashed."""


@dataclass
class History:
    """One random history.

    Attributes:
        database: The database; emptied at the beginning.
        clock: The time of all components.
        seed: The seed of all random choices.
        is_notified: Whether at least one webhook of each change arrives, sooner or later.
        is_pruned: Whether weeks pass between changes, and prunes delete all expired rows.
        reads: The number of reads of Meld.
        acts: The number of changes at Meld.
        faults: The current faults.
    """

    database: Database
    clock: Clock
    seed: int
    is_notified: bool
    is_pruned: bool = False
    reads: int = 0
    acts: int = 0
    faults: Faults = FAULTS

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        empty(self.database)
        self.world = World(clock=self.clock, random=self.random, quirks=self._quirks())
        self.activity = RandomActivity(self.world, self.random)
        self.table = make_webhook_table(self.database, ENCRYPTION)
        self.refetcher = Refetcher(
            database=self.database,
            reader=self,
            notify_workers=self._notify,
            notify_dispatchers=lambda _ids: None,
            clock=self.clock,
            lease_seconds=LEASE_SECONDS,
            new_token=map("token {}".format, itertools.count()).__next__,
            jitter=self.random.random,
            metrics=Metrics(),
            notify_feed=lambda: None,
        )
        self.scheduler = Scheduler(
            database=self.database, notify_readers=self._notify, notify_dispatchers=lambda _ids: None, holder="history"
        )
        self._queue: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._concurrent_reads = 0

    def run(self) -> None:
        """Run the history until no read is pending."""
        for _ in range(self.random.randint(1, 3)):
            self._schedule(self.random.uniform(0, 60), self._link)
        for _ in range(self.random.randint(5, 25)):
            self._schedule(self._time_until_change(), self._change)
            if self.is_pruned:
                self._schedule(self._time_until_change(), self._prune)
        self._run_to_the_end()
        self.faults = NO_FAULTS
        for hours in range(int(QUIET_SECONDS / SCHEDULER_INTERVAL_SECONDS)):
            self._schedule((hours + 1) * SCHEDULER_INTERVAL_SECONDS, self._expire_and_schedule)
        self._run_to_the_end()

    def reconcile(self) -> None:
        """Reconcile, and run until no read is pending."""
        Reconciler(
            database=self.database,
            lister=self,
            import_connections=BulkImport(database=self.database),
            notify_workers=self._notify,
            clock=self.clock,
            holder="history",
            lease_seconds=LEASE_SECONDS,
            wait=self._wait,
            notify_feed=lambda: None,
        ).run()
        self._run_to_the_end()

    def close(self) -> None:
        """Close the prepared statements of the inbox."""
        self.table.close()

    def differences(self) -> list[str]:
        """Return the differences between the mirror and Meld."""
        return differences(self.database, self.world, is_notified=self.is_notified)

    def read(self, connection_id: str) -> ReadOutcome:
        """Answer a read with the state at its beginning or before it; the history continues during the read."""
        self.reads += 1
        step = self.faults.draw_read(self.random)
        if self.faults is not NO_FAULTS and self.random.random() < CRASH_RATE:
            raise KilledError
        outcome = self._failure(step) or self._connection(connection_id, step)
        self._wait(HANG_DURATION.total_seconds() if step.hang else step.delay)
        return outcome

    def page(self, *, after: str | None = None) -> PageOutcome:
        """Answer with a page of Meld's list."""
        step = self.faults.draw_read(self.random)
        failure = self._failure(step)
        if failure is not None:
            return failure
        query = parse_list_query({"limit": "3", **({"after": after} if after else {})})
        shift = step.shift if query.after is not None else 0
        page = self.world.page(query, seconds_ago=step.stale, shift=shift)
        items = page["connections"]
        snapshots = tuple(Snapshot.from_document(redact(parse_json(compact_json(item)))) for item in items)
        return ListPage(snapshots, 0, items[-1]["key"] if items and page["remaining"] else None)

    def _failure(self, step: ScriptedRead) -> Throttled | Unavailable | Refused | None:
        if step.cut or step.hang:
            return Unavailable("no answer")
        if step.status is None:
            return None
        if step.status == 429:
            seconds = step.headers.get("Retry-After")
            return Throttled(float(seconds) if seconds else None)
        return Refused("Meld answered 401") if step.status == 401 else Unavailable("Meld answered 500")

    def _connection(self, connection_id: str, step: ScriptedRead) -> ReadOutcome:
        try:
            view = self.world.view(connection_id, seconds_ago=step.stale)
        except AbsentError:
            return Absent()
        return Found(Snapshot.from_document(redact(parse_json(compact_json(view)))))

    def _quirks(self) -> Faults:
        flip = self.random.random
        return Faults(
            deleted_gone=flip() < 0.5, deleted_kept=flip() < 0.3, self_listed=flip() < 0.3, empty_list=flip() < 0.5,
            deletion_changes_status=flip() < 0.5, third_announced=flip() < 0.2,
        )  # fmt: skip

    def _link(self) -> None:
        size = self.random.randint(1, 5)
        customer = f"customer {self.acts}"
        members, events = connect_group(self.world, size, HEALTHY, NewConnection(external_customer_id=customer))
        self.acts += size
        # Each member is linked through the widget separately, so each is a separate change.
        for member in members:
            self._announce([event for event in events if event.connection_id == member])

    def _change(self) -> None:
        events = self.activity.step()
        self.acts += 1
        self._announce(events)

    def _announce(self, events: Sequence[WebhookEvent]) -> None:
        arriving_events = [event for event in events if self._arrives(event)]
        if not arriving_events and events and self.is_notified:
            arriving_events = [self.random.choice(events)]
        for event in arriving_events:
            for _ in range(self.random.choice((1, 1, 1, 2))):
                self._schedule(self._delay(), lambda event=event: self._deliver(event))

    def _arrives(self, event: WebhookEvent) -> bool:
        # If Meld answers 404 for a deleted connection, only its DELETED webhook shows that it was deleted.
        is_vital = self.world.quirks.deleted_gone and event.event_type == CONNECTION_DELETED
        return (self.is_notified and is_vital) or self.random.random() < ARRIVAL_RATE

    def _deliver(self, event: WebhookEvent) -> None:
        delivery = ReceivedWebhook(
            body=event.body, headers={}, url="https://receiver.example", signed_at=self.clock.now,
            hint=parse_hint(event.body),
        )  # fmt: skip
        self._notify(self.table.insert([delivery]))

    def _prune(self) -> None:
        Prune(
            database=self.database,
            settings=Settings.model_validate({f"retain_{kind}_days": 0 for kind in KINDS}),
            holder="history",
            wait=lambda _seconds: False,
            metrics=Metrics(),
        ).run(who="clock")

    def _expire_and_schedule(self) -> None:
        self.world.expire_due()
        for _ in range(10):
            self.scheduler.run_once()

    def _notify(self, connection_ids: Collection[str]) -> None:
        for connection_id in connection_ids:
            if self.faults is NO_FAULTS or self.random.random() >= MESSAGE_LOSS_RATE:
                delay = self.random.uniform(0, 0.1)
                self._schedule(delay, lambda connection_id=connection_id: self._work(connection_id))

    def _work(self, connection_id: str) -> None:
        with suppress(KilledError):
            self.refetcher.refetch(connection_id)

    def _time_until_change(self) -> float:
        """Return the time until a change: sometimes none, sometimes long."""
        weeks = (20 * 86400.0, 40 * 86400.0) if self.is_pruned else ()
        return self.random.choice((0.0, 30.0, 3600.0, 20_000.0, *weeks)) + self.random.uniform(0, 5)

    def _delay(self) -> float:
        return self.random.choice((0.0, 0.0, self.random.uniform(0, 5), self.random.uniform(0, 90), 3000.0))

    def _schedule(self, seconds: float, action: Callable[[], None]) -> None:
        heappush(self._queue, (self.clock.now + timedelta(seconds=seconds), next(self._numbers), action))

    def _wait(self, seconds: float) -> bool:
        """Move the time, and run all actions that are due meanwhile."""
        end = self.clock.now + timedelta(seconds=seconds)
        if seconds and self._concurrent_reads < MAX_CONCURRENT_READS:
            self._concurrent_reads += 1
            while self._queue and self._queue[0][0] <= end:
                self._next()
            self._concurrent_reads -= 1
        if seconds:
            self.clock.move(end)
        return False

    def _next(self) -> None:
        at, _, action = heappop(self._queue)
        if at > self.clock.now:
            self.clock.move(at)
        action()

    def _run_to_the_end(self) -> None:
        """Run until no action is scheduled and no read is pending."""
        for _ in range(MAX_STEPS):
            due = self._next_notification()
            if not self._queue and due is None:
                return
            if due is None or (self._queue and self._queue[0][0] <= due):
                self._next()
            else:
                self.clock.move(due)
                self.scheduler.run_once()
        raise AssertionError(f"history {self.seed} does not finish")

    def _next_notification(self) -> datetime | None:
        """Return the time of the scheduler's next notification; None if no read is pending."""
        with self.database.read() as session:
            is_pending = (
                col(ReadRequestRow.requested) > col(ReadRequestRow.completed),
                col(ReadRequestRow.due_at).is_not(None),
            )
            pending = session.exec(select(ReadRequestRow).where(*is_pending)).all()
            circuit = circuit_breaker.get_open_circuit(session)
        if not pending:
            return None
        interval = timedelta(seconds=read_queue.RENOTIFY_AFTER_SECONDS)
        opened = [circuit.until] if circuit is not None else []
        times = []
        for request in pending:
            renotified = [request.woken_at + interval] if request.woken_at else []
            leased = [request.leased_until] if request.leased_until else []
            times.append(max([self.clock.now, request.due_at or self.clock.now, *renotified, *leased, *opened]))
        return min(times) + timedelta(milliseconds=100)

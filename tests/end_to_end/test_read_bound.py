import shutil
from collections.abc import Collection
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlmodel import col, select

from runtime.database import Database
from runtime.metrics import Metrics
from schemas.meld.read_outcome import ReadOutcome
from schemas.tables import ReadRequestRow
from service.ingest.webhook_insert import make_webhook_table
from service.scheduler.loop import Scheduler
from tests.end_to_end.manual_time import Clock
from tests.support.encryption_keys import ENCRYPTION
from tests.support.random_rounds import rounds
from tests.support.scripted_meld import found
from tests.support.webhook_factory import DELETED, STATUS_CHANGE, body, received_webhook
from workers.refetch.follow_up_reads import MAX_DEPTH
from workers.refetch.recheck_delays import RECHECK_SECONDS
from workers.refetch.refetch import Refetcher

IDS = "abcde"
TYPES = st.sampled_from([STATUS_CHANGE, "BANK_LINKING_ACCOUNTS_UPDATED", DELETED])
STATUSES = ("ACTIVE", "PARTIALLY_ACTIVE", "RECONNECT_REQUIRED", "DELETED")
MAX_WAITS = 400


def bound(size: int) -> int:
    """Return the maximum number of reads per request in a group of that size, as in docs/architecture.md."""
    reads = 2 + len(RECHECK_SECONDS)
    return reads * sum((reads * (size - 1)) ** depth for depth in range(MAX_DEPTH + 1))


class ReadBoundMachine(RuleBasedStateMachine):
    """Webhooks arrive in any order or not at all; Meld's answers are stale, contradictory or random."""

    def __init__(self, template: Path) -> None:
        super().__init__()
        self.path = template.with_name("mirror.db")
        for old in template.parent.glob("mirror.db*"):
            old.unlink()
        shutil.copy(template, self.path)
        self.clock = Clock()
        self.database = Database(f"sqlite:///{self.path}", clock=self.clock)
        self.reads = self.requests = 0
        self.messages: list[str] = []

    @initialize(size=st.integers(1, len(IDS)), seed=st.integers(0, 2**32), truth=st.floats(0, 1))
    def begin(self, size: int, seed: int, truth: float) -> None:
        """Create a group; ``truth`` is the share of correct answers."""
        self.ids, self.random, self.truth = IDS[:size], Random(seed), truth
        self.primary = self.ids[0]
        tokens = (str(number) for number in range(10**9))
        self.refetcher = Refetcher(
            database=self.database,
            reader=self,
            notify_workers=self._notify,
            notify_dispatchers=lambda _ids: None,
            clock=self.clock,
            lease_seconds=30,
            new_token=lambda: next(tokens),
            jitter=lambda: 1.0,
            metrics=Metrics(),
            notify_feed=lambda: None,
        )
        self.scheduler = Scheduler(
            database=self.database, notify_readers=self._notify, notify_dispatchers=lambda _ids: None, holder="test"
        )

    def read(self, connection_id: str) -> ReadOutcome:
        """Answer with Meld's state, or at random."""
        self.reads += 1
        others = [other for other in self.ids if other != connection_id]
        if self.random.random() < self.truth or not others:
            primary, status = (self.primary if others else None), "ACTIVE"
        else:
            others = self.random.sample(others, self.random.randint(0, len(others)))
            primary = self.random.choice([connection_id, *others]) if others else None
            status = self.random.choice(STATUSES)
        return found(connection_id, status, activeDuplicateConnectionId=primary, duplicateConnectionIds=others)

    @rule(number=st.integers(0, len(IDS) - 1), type_=TYPES, status=st.none() | st.sampled_from(STATUSES))
    def receive_webhook(self, number: int, type_: str, status: str | None) -> None:
        """Store a webhook, which requests one read."""
        fields = {} if status is None else {"newStatus": status}
        raw = body(self.ids[number % len(self.ids)], type_, **fields)
        with closing(make_webhook_table(self.database, ENCRYPTION)) as table:
            self._notify(table.insert([received_webhook(raw)]))
        self.requests += 1

    @rule(number=st.integers(0, len(IDS) - 1))
    def move(self, number: int) -> None:
        """Move the primary at Meld."""
        self.primary = self.ids[number % len(self.ids)]

    @rule(count=st.integers(1, 20))
    def work(self, count: int) -> None:
        """Let workers process some of their messages."""
        for _ in range(min(count, len(self.messages))):
            self.refetcher.refetch(self.messages.pop(0))

    @rule(seconds=st.sampled_from([1.0, 6.0, 40.0, 700.0]))
    def wait(self, seconds: float) -> None:
        """Move the time, and run the scheduler."""
        self.clock.move(self.clock.now + timedelta(seconds=seconds))
        self.scheduler.run_once()

    @rule()
    def drain(self) -> None:
        """Run until no read is pending."""
        for _ in range(MAX_WAITS):
            while self.messages:
                self.work(100)
                self.no_request_costs_more_than_the_bound()
            if not self._count_pending():
                return
            self.wait(700.0)
        raise AssertionError("reads are still pending")

    @invariant()
    def no_request_costs_more_than_the_bound(self) -> None:
        """The number of reads per webhook is bounded, whatever Meld answers."""
        assert self.reads <= self.requests * bound(len(self.ids))

    def teardown(self) -> None:
        """Check that no read stays pending, and close the database."""
        self.drain()
        self.database.close()

    def _notify(self, connection_ids: Collection[str]) -> None:
        self.messages += connection_ids

    def _count_pending(self) -> int:
        with self.database.read() as session:
            return len(
                session.exec(
                    select(ReadRequestRow).where(col(ReadRequestRow.requested) > col(ReadRequestRow.completed))
                ).all()
            )


def test_reads_are_bounded_whatever_meld_answers(sqlite_url: str) -> None:
    """With random groups, webhooks and answers, the reads per webhook stay within the bound, and none stays pending."""
    template = Path(sqlite_url.removeprefix("sqlite:///"))
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: ReadBoundMachine(template), settings=settings(max_examples=rounds(12), stateful_step_count=25)
    )

"""Deliver: the conductor of pushes. Lease a lane, sign, send, settle; and so on until nothing is due.

A call names a subscription, not a delivery: who comes takes whatever has been due longest. Whatever is killed in
between, the lease ends and the clock calls again; a push that was sent but not noted is sent once more, with its id.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import Any, Protocol

from sqlmodel import Session

from runtime import logs
from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import EncryptionError, OutOfReachError
from runtime.metrics import Metrics
from runtime.queues import deliveries
from runtime.security.encryption import Encryption
from schemas.events import Event
from schemas.push import Receipt
from workers.delivery.concurrency import ConcurrencyLimits
from workers.delivery.lease import DeliveryLease, DeliveryTarget, look, take
from workers.delivery.result import DeliveryLeaseLostError, settle
from workers.delivery.signing import headers

log = logs.get(__name__)

ROUND_SECONDS = 5.0
"""After this long a thread goes to the end of the queue, so that other subscriptions have their turn."""


class DeliverySender(Protocol):
    """The way to subscribers."""

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Push, within the time that a lease leaves; never raise for what the other side does."""


class DeliveryDispatcher:
    """Pushes events to subscriptions, in order on each lane. Threads share one.

    Args:
        database: Where the deliveries are.
        sender: The way to subscribers.
        vault: Opens the secrets that sign.
        call: Calls workers for subscriptions; may raise ``OutOfReachError``, then the clock does.
        clock: The present, which is signed.
        lease_seconds: How long a lane is leased; longer than any push.
        token: Makes the fence's token, never the same twice.
        jitter: Makes a random number from 0 to 1.
        metrics: Counts.
        threads: How many threads of this process push.
        round_seconds: After how long a thread goes to the end of the queue.
    """

    def __init__(
        self,
        *,
        database: Database,
        sender: DeliverySender,
        vault: Encryption,
        call: Callable[[Collection[str]], None],
        clock: Clock,
        lease_seconds: float,
        token: Callable[[], str],
        jitter: Callable[[], float],
        metrics: Metrics,
        threads: int,
        round_seconds: float = ROUND_SECONDS,
    ) -> None:
        self._database = database
        self._sender = sender
        self._vault = vault
        self._call = call
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._token = token
        self._jitter = jitter
        self._metrics = metrics
        self._shares = ConcurrencyLimits(threads)
        self._round_seconds = round_seconds
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._is_stopping = False

    def deliver(self, subscription_id: str) -> None:
        """Push what is due to a subscription, until nothing is, or others should have their turn.

        Raises:
            OutOfReachError: Where the database does not answer.
        """
        if not self._shares.enter(subscription_id):
            return
        try:
            is_left = self._go_round(subscription_id)
        except BaseException:
            self._shares.leave(subscription_id)
            raise
        if self._is_stopping:
            return
        if (turn := self._shares.next_turn()) is not None:
            self._call_again(turn)
        if is_left:
            self._call_again(subscription_id)

    def stop(self) -> None:
        """Begin no more pushes: the process ends."""
        self._is_stopping = True

    def give_back(self) -> None:
        """Give back the lanes whose pushes are under way: the process ends and will not wait for them."""
        with self._lock:
            tokens = sorted(self._under_way)
        for token in tokens:
            # One lane for each transaction: who touches several has to hold the feed.
            self._free(token)

    def _go_round(self, subscription_id: str) -> bool:
        """Push one after the other, and leave the share. Return whether it was left with work that may be there."""
        deadline = monotonic() + self._round_seconds
        errand: DeliveryLease | None = None
        while errand is not None or self._has_time(deadline):
            errand = errand or self._take(subscription_id)
            if errand is None:
                if not self._shares.stays(subscription_id):
                    return False
                continue
            may_go_on, errand = self._work(errand, deadline)
            if not may_go_on:
                # Its consumer fails: one thread at a time is enough to find out when it does no more.
                break
        self._shares.leave(subscription_id)
        return monotonic() >= deadline

    def _has_time(self, deadline: float) -> bool:
        return not self._is_stopping and monotonic() < deadline

    def _take(self, subscription_id: str) -> DeliveryLease | None:
        with self._database.write() as session:
            return self._take_within(session, look(self._database, session, subscription_id))

    def _take_within(self, session: Session, target: DeliveryTarget | None) -> DeliveryLease | None:
        if target is None:
            return None
        return take(self._database, session, target, token=self._token(), lease_seconds=self._lease_seconds)

    def _work(self, errand: DeliveryLease, deadline: float) -> tuple[bool, DeliveryLease | None]:
        """Push, and write down what came of it.

        Return whether this thread may go on with the subscription, and the next errand, where it has that already.
        """
        with self._lock:
            self._under_way.add(errand.token)
        try:
            began_at, began = self._clock(), monotonic()
            with self._shares.pushing(errand.subscription_id):
                receipt = self._send(errand)
            if receipt.is_void:
                self._free(errand.token)
                return False, None
            seconds = monotonic() - began
            self._metrics.pushes.labels(_result(receipt)).inc()
            self._metrics.push_seconds.observe(seconds)
            outcome = {
                "at": began_at.isoformat(),
                "seconds": round(seconds, 3),
                "status": receipt.status,
                "error": receipt.detail,
                "response": receipt.response,
            }
            following = self._settle(errand, receipt, outcome, goes_on=receipt.is_taken and self._has_time(deadline))
        finally:
            with self._lock:
                self._under_way.discard(errand.token)
        return not self._shares.note(errand.subscription_id, is_taken=receipt.is_taken), following

    def _send(self, errand: DeliveryLease) -> Receipt:
        try:
            body = Event.from_row(errand.event).model_dump_json()
            secrets = [self._vault.open(secret) for secret in errand.secrets]
            signed = headers(errand.event.id, body, secrets=secrets, now=self._clock(), replay_id=errand.replay_id)
            return self._sender.send(errand.url, signed, body.encode())
        except EncryptionError as error:
            return Receipt(detail=str(error), is_ours=True)
        except Exception as error:
            # Whatever it was, it is this delivery's failure: it waits for its next attempt, and no other waits for it.
            log.exception("push not made", event_id=errand.event.id)
            return Receipt(detail=f"the push could not be made ({type(error).__name__})", is_ours=True)

    def _settle(
        self, errand: DeliveryLease, receipt: Receipt, outcome: dict[str, Any], *, goes_on: bool
    ) -> DeliveryLease | None:
        """Write down what came of a push. Who goes on takes the next errand in the same commit, which is dear."""
        try:
            with self._database.write() as session:
                target = look(self._database, session, errand.subscription_id) if goes_on else None
                settle(self._database, session, errand, receipt, outcome, jitter=self._jitter())
                following = self._take_within(session, target)
        except DeliveryLeaseLostError:
            self._metrics.overtaken.inc()
            log.info("overtaken", subscription_id=errand.subscription_id, event_id=errand.event.id)
            return None
        if not receipt.is_taken:
            log.warning(
                "not pushed",
                subscription_id=errand.subscription_id,
                event_id=errand.event.id,
                attempt=errand.attempts + 1,
                detail=receipt.detail,
                is_given_up=errand.is_last and not receipt.is_ours,
                is_disabled=receipt.is_gone,
            )
        return following

    def _free(self, token: str) -> None:
        with self._database.write() as session:
            deliveries.free(session, token)

    def _call_again(self, subscription_id: str) -> None:
        try:
            self._call([subscription_id])
        except OutOfReachError:
            self._metrics.calls_lost.inc()


def _result(receipt: Receipt) -> str:
    if receipt.is_taken:
        return "taken"
    if receipt.is_ours:
        return "not_made"
    return "refused" if receipt.is_answered else "no_answer"

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import islice
from random import Random

import httpx2
import pytest

from simulator.faults.settings import NO_FAULTS, Faults
from simulator.webhooks import signature
from simulator.webhooks.outgoing_webhook import OutgoingWebhook
from simulator.webhooks.retries import RetryingDelivery, retry_intervals
from simulator.webhooks.sender import WebhookSender
from simulator.world.webhook_payloads import WebhookEvent
from tests.simulator.fakes import NOON, SECRET, WEBHOOK_URL, Clock, Receiver


class DeliveryRun:
    """A delivery whose waits pass at once on its clock and are recorded."""

    def __init__(self, receiver: Receiver, faults: Faults = NO_FAULTS) -> None:
        self.receiver = receiver
        self.clock = Clock()
        self.waits: list[float] = []
        sender = WebhookSender(
            url=WEBHOOK_URL, secret=SECRET, clock=self.clock, timeout_seconds=0.05, transport=receiver
        )
        self.delivery = RetryingDelivery(sender=sender, faults=lambda: faults, random=Random(1), sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.waits.append(seconds)
        self.clock.advance(seconds=seconds)
        await asyncio.sleep(0)

    def deliver(
        self, *bodies: bytes, done: Callable[[Sequence[OutgoingWebhook]], bool], in_order: bool = False
    ) -> list[OutgoingWebhook]:
        """Deliver webhooks with these bodies until the condition holds."""
        webhooks = [self.webhook(body) for body in bodies]

        async def run() -> None:
            async with self.delivery.running(), asyncio.timeout(5):
                (self.delivery.deliver_in_order if in_order else self.delivery.deliver)(webhooks)
                while not done(webhooks):  # noqa: ASYNC110 - the condition is each test's own
                    await asyncio.sleep(0.001)

        asyncio.run(run())
        return webhooks

    def webhook(self, body: bytes) -> OutgoingWebhook:
        """Return a webhook with this body."""
        event = WebhookEvent(event_id=body.decode(), event_type="T", connection_id=None, body=body)
        return OutgoingWebhook(event=event, created_at=self.clock())


def all_delivered(webhooks: Sequence[OutgoingWebhook]) -> bool:
    """Return whether every webhook was delivered."""
    return all(webhook.state == "delivered" for webhook in webhooks)


def test_the_intervals_double_from_a_minute_to_an_hour_for_three_days() -> None:
    """The retry schedule is Meld's."""
    minutes = [interval / timedelta(minutes=1) for interval in islice(retry_intervals(), 8)]
    every = list(retry_intervals())

    assert minutes == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (len(every), sum(every, timedelta()) <= timedelta(days=3)) == (76, True)


def test_a_webhook_is_signed_over_the_bytes_that_are_sent() -> None:
    """The signature matches the sent body, the URL and the timestamp header."""
    delivery = DeliveryRun(Receiver())

    delivery.deliver(b'{"n": 1.0}', done=all_delivered)

    (received,) = delivery.receiver.received
    expected = signature.signature_headers(
        secret=SECRET, url=WEBHOOK_URL, signed_at=signature.format_timestamp(NOON), body=received.body
    )
    assert expected.items() <= {name.title(): value for name, value in received.headers.items()}.items()
    assert received.body == b'{"n": 1.0}'
    assert "Meld-Retry-Count" not in received.headers


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (204, "HTTP error: 204"),
        (301, "HTTP error: 301"),
        (401, "HTTP error: 401"),
        (503, "HTTP error: 503"),
        (1.0, "Timeout"),
        (httpx2.ConnectError("refused"), "Could not connect"),
    ],
)
def test_every_status_but_200_is_retried(answer: float | Exception, reason: str) -> None:
    """A retry has the same bytes, its number and the reason."""
    delivery = DeliveryRun(Receiver([answer]))

    (webhook,) = delivery.deliver(b"1", done=all_delivered)

    first, second = delivery.receiver.received
    assert first.body == second.body
    assert (second.headers["Meld-Retry-Count"], second.headers["Meld-Retry-Reason"]) == ("1", reason)
    assert [attempt.problem for attempt in webhook.attempts] == [reason, None]


@pytest.mark.parametrize(("retry_time", "expected"), [("new", [0, 60, 180]), ("old", [0, 0, 0])])
def test_a_retry_is_signed_with_a_new_or_the_old_time(retry_time: str, expected: list[int]) -> None:
    """A setting chooses the signature time of retries, since Meld does not document it."""
    delivery = DeliveryRun(Receiver([500, 500]), Faults.from_json({"retry_time": retry_time}))

    delivery.deliver(b"1", done=all_delivered)

    times = [received.headers["Meld-Signature-Timestamp"] for received in delivery.receiver.received]
    assert times == [signature.format_timestamp(NOON + timedelta(seconds=seconds)) for seconds in expected]


def test_after_three_days_it_is_given_up() -> None:
    """The last retry is within three days."""
    delivery = DeliveryRun(Receiver([500] * 100))

    (webhook,) = delivery.deliver(b"1", done=lambda webhooks: webhooks[0].state == "given up")

    assert (len(webhook.attempts), len(delivery.receiver.received)) == (77, 77)
    assert delivery.clock() - NOON <= timedelta(days=3)


def test_a_lost_webhook_is_never_sent() -> None:
    """A lost webhook is recorded without an attempt."""
    delivery = DeliveryRun(Receiver(), Faults(lost=1))

    (webhook,) = delivery.deliver(b"1", done=lambda webhooks: webhooks[0].state == "lost")

    assert (webhook.attempts, delivery.receiver.received) == ([], [])


def test_a_doubled_webhook_arrives_twice() -> None:
    """The same bytes are sent twice."""
    delivery = DeliveryRun(Receiver(), Faults(doubled=1))

    delivery.deliver(b"1", done=lambda webhooks: len(webhooks[0].attempts) == 2)

    assert [received.body for received in delivery.receiver.received] == [b"1", b"1"]


def test_a_delayed_webhook_arrives_late() -> None:
    """The delay is at most the seconds of the fault."""
    delivery = DeliveryRun(Receiver(), Faults.parse("delay=1:30"))

    delivery.deliver(b"1", done=all_delivered)

    (wait,) = delivery.waits
    assert 0 < wait <= 30


def test_a_reordered_webhook_is_overtaken() -> None:
    """A webhook held back is sent after a later one, before its time is over."""
    delivery = DeliveryRun(Receiver(), Faults.parse("reordered=0.5:5"))
    bodies = [str(number).encode() for number in range(20)]

    delivery.deliver(*bodies, done=all_delivered)

    arrived = [received.body for received in delivery.receiver.received]
    assert (sorted(arrived), arrived != bodies) == (sorted(bodies), True)


def test_delivery_in_order_is_sequential_and_without_faults() -> None:
    """Webhooks delivered in order arrive in order, regardless of faults."""
    delivery = DeliveryRun(Receiver([0.01, 0.0]), Faults(lost=1))

    delivery.deliver(b"2", b"1", b"3", done=all_delivered, in_order=True)

    assert [received.body for received in delivery.receiver.received] == [b"2", b"1", b"3"]


def test_headers_can_be_replaced_and_omitted() -> None:
    """A webhook may have the caller's headers."""
    delivery = DeliveryRun(Receiver())
    webhook = delivery.webhook(b"1")
    webhook.headers = {"Meld-Signature": None, "X-Odd": "yes"}
    delivery.webhook = lambda _: webhook

    delivery.deliver(b"1", done=all_delivered)

    (received,) = delivery.receiver.received
    assert ("Meld-Signature" in received.headers, received.headers["X-Odd"]) == (False, "yes")


def test_webhooks_before_the_start_are_queued() -> None:
    """Webhooks submitted before the start are delivered after it."""
    delivery = DeliveryRun(Receiver())
    early = delivery.webhook(b"early")
    delivery.delivery.deliver([early])

    delivery.deliver(b"1", done=lambda _: early.state == "delivered")

    assert delivery.receiver.received[0].body == b"early"

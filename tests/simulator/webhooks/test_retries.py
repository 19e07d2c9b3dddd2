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
from simulator.webhooks.retries import RetryingDelivery, retry_gaps
from simulator.webhooks.sender import WebhookSender
from simulator.world.webhook_payloads import Announcement
from tests.simulator.fakes import NOON, SECRET, WEBHOOK_URL, Clock, Receiver


class Delivery:
    """A post whose waits pass at once on its clock, and are written down."""

    def __init__(self, receiver: Receiver, faults: Faults = NO_FAULTS) -> None:
        self.receiver = receiver
        self.clock = Clock()
        self.waits: list[float] = []
        courier = WebhookSender(
            url=WEBHOOK_URL, secret=SECRET, clock=self.clock, seconds_to_answer=0.05, transport=receiver
        )
        self.post = RetryingDelivery(courier=courier, faults=lambda: faults, random=Random(1), sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.waits.append(seconds)
        self.clock.advance(seconds=seconds)
        await asyncio.sleep(0)

    def deliver(
        self, *bodies: bytes, done: Callable[[Sequence[OutgoingWebhook]], bool], in_turn: bool = False
    ) -> list[OutgoingWebhook]:
        """Send them and run until it is done."""
        parcels = [self.parcel(body) for body in bodies]

        async def run() -> None:
            async with self.post.running(), asyncio.timeout(5):
                (self.post.send_in_turn if in_turn else self.post.send)(parcels)
                while not done(parcels):  # noqa: ASYNC110 - the condition is each test's own
                    await asyncio.sleep(0.001)

        asyncio.run(run())
        return parcels

    def parcel(self, body: bytes) -> OutgoingWebhook:
        """A parcel of that body."""
        announcement = Announcement(event_id=body.decode(), event_type="T", connection_id=None, body=body)
        return OutgoingWebhook(announcement=announcement, created_at=self.clock())


def all_delivered(parcels: Sequence[OutgoingWebhook]) -> bool:
    """Whether every parcel has arrived."""
    return all(parcel.state == "delivered" for parcel in parcels)


def test_the_gaps_double_from_a_minute_to_an_hour_for_three_days() -> None:
    """The schedule of retries is Meld's."""
    minutes = [gap / timedelta(minutes=1) for gap in islice(retry_gaps(), 8)]
    every = list(retry_gaps())

    assert minutes == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (len(every), sum(every, timedelta()) <= timedelta(days=3)) == (76, True)


def test_a_webhook_is_signed_over_the_bytes_that_are_sent() -> None:
    """The signature in the headers fits the body, the URL and the time beside it."""
    delivery = Delivery(Receiver())

    delivery.deliver(b'{"n": 1.0}', done=all_delivered)

    (received,) = delivery.receiver.received
    expected = signature.headers(secret=SECRET, url=WEBHOOK_URL, signed_at=signature.stamp(NOON), body=received.body)
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
def test_whatever_is_not_exactly_200_is_retried(answer: float | Exception, reason: str) -> None:
    """The retry bears the same bytes, its number and the reason."""
    delivery = Delivery(Receiver([answer]))

    (parcel,) = delivery.deliver(b"1", done=all_delivered)

    first, second = delivery.receiver.received
    assert first.body == second.body
    assert (second.headers["Meld-Retry-Count"], second.headers["Meld-Retry-Reason"]) == ("1", reason)
    assert [attempt.problem for attempt in parcel.attempts] == [reason, None]


@pytest.mark.parametrize(("retry_time", "expected"), [("new", [0, 60, 180]), ("old", [0, 0, 0])])
def test_a_retry_bears_a_new_time_or_the_old_one(retry_time: str, expected: list[int]) -> None:
    """Whether retries are signed anew is a switch, as Meld does not say."""
    delivery = Delivery(Receiver([500, 500]), Faults.read({"retry_time": retry_time}))

    delivery.deliver(b"1", done=all_delivered)

    times = [received.headers["Meld-Signature-Timestamp"] for received in delivery.receiver.received]
    assert times == [signature.stamp(NOON + timedelta(seconds=seconds)) for seconds in expected]


def test_after_three_days_it_is_given_up() -> None:
    """The last retry comes within three days, then nothing more."""
    delivery = Delivery(Receiver([500] * 100))

    (parcel,) = delivery.deliver(b"1", done=lambda parcels: parcels[0].state == "given up")

    assert (len(parcel.attempts), len(delivery.receiver.received)) == (77, 77)
    assert delivery.clock() - NOON <= timedelta(days=3)


def test_a_lost_webhook_is_never_sent() -> None:
    """Losing leaves a record and no attempt."""
    delivery = Delivery(Receiver(), Faults(lost=1))

    (parcel,) = delivery.deliver(b"1", done=lambda parcels: parcels[0].state == "lost")

    assert (parcel.attempts, delivery.receiver.received) == ([], [])


def test_a_doubled_webhook_arrives_twice() -> None:
    """Doubling sends the same bytes twice."""
    delivery = Delivery(Receiver(), Faults(doubled=1))

    delivery.deliver(b"1", done=lambda parcels: len(parcels[0].attempts) == 2)

    assert [received.body for received in delivery.receiver.received] == [b"1", b"1"]


def test_a_delayed_webhook_arrives_late() -> None:
    """A delay is at most as long as the fault says."""
    delivery = Delivery(Receiver(), Faults.parse("delay=1:30"))

    delivery.deliver(b"1", done=all_delivered)

    (wait,) = delivery.waits
    assert 0 < wait <= 30


def test_a_reordered_webhook_is_overtaken() -> None:
    """What is held back leaves after a later one, without waiting out its time."""
    delivery = Delivery(Receiver(), Faults.parse("reordered=0.5:5"))
    bodies = [str(number).encode() for number in range(20)]

    delivery.deliver(*bodies, done=all_delivered)

    arrived = [received.body for received in delivery.receiver.received]
    assert (sorted(arrived), arrived != bodies) == (sorted(bodies), True)


def test_in_turn_means_one_after_the_other_and_without_faults() -> None:
    """Released webhooks arrive in their order, whatever goes wrong with others."""
    delivery = Delivery(Receiver([0.01, 0.0]), Faults(lost=1))

    delivery.deliver(b"2", b"1", b"3", done=all_delivered, in_turn=True)

    assert [received.body for received in delivery.receiver.received] == [b"2", b"1", b"3"]


def test_headers_can_be_replaced_and_left_out() -> None:
    """A parcel may bear headers of the caller's making."""
    delivery = Delivery(Receiver())
    parcel = delivery.parcel(b"1")
    parcel.headers = {"Meld-Signature": None, "X-Odd": "yes"}
    delivery.parcel = lambda _: parcel

    delivery.deliver(b"1", done=all_delivered)

    (received,) = delivery.receiver.received
    assert ("Meld-Signature" in received.headers, received.headers["X-Odd"]) == (False, "yes")


def test_what_is_sent_early_leaves_once_the_post_runs() -> None:
    """Parcels that come before the start are not lost."""
    delivery = Delivery(Receiver())
    early = delivery.parcel(b"early")
    delivery.post.send([early])

    delivery.deliver(b"1", done=lambda _: early.state == "delivered")

    assert delivery.receiver.received[0].body == b"early"

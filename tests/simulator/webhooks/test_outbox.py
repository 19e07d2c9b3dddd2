from collections.abc import Sequence

import pytest

from simulator.errors import AbsentError
from simulator.webhooks.outbox import WebhookOutbox, WithholdFilter
from simulator.webhooks.outgoing_webhook import OutgoingWebhook
from simulator.world.webhook_payloads import WebhookEvent
from tests.simulator.fakes import Clock


class RecordingDelivery:
    """Records the webhooks it is given."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.sent_in_order: list[str] = []

    def deliver(self, webhooks: Sequence[OutgoingWebhook]) -> None:
        """Record."""
        self.sent += [webhook.event.event_id for webhook in webhooks]

    def deliver_in_order(self, webhooks: Sequence[OutgoingWebhook]) -> None:
        """Record separately."""
        self.sent_in_order += [webhook.event.event_id for webhook in webhooks]


@pytest.fixture
def delivery() -> RecordingDelivery:
    """A delivery that only records."""
    return RecordingDelivery()


@pytest.fixture
def outbox(delivery: RecordingDelivery, clock: Clock) -> WebhookOutbox:
    """An empty outbox."""
    return WebhookOutbox(clock=clock, delivery=delivery)


def event(event_id: str, event_type: str = "A", connection_id: str = "c") -> WebhookEvent:
    """Return an event with this id."""
    return WebhookEvent(event_id=event_id, event_type=event_type, connection_id=connection_id, body=b"{}")


def test_events_are_sent_at_once(outbox: WebhookOutbox, delivery: RecordingDelivery) -> None:
    """Events are passed to the delivery and recorded."""
    outbox.enqueue([event("1"), event("2")])

    assert delivery.sent == ["1", "2"]
    assert [one.event.event_id for one in outbox.webhooks()] == ["1", "2"]


def test_withheld_webhooks_are_sent_on_release(outbox: WebhookOutbox, delivery: RecordingDelivery) -> None:
    """While all are withheld, none is sent; releasing all sends them, oldest first, and ends the withholding."""
    outbox.withhold(WithholdFilter())
    outbox.enqueue([event("1"), event("2")])
    before = list(delivery.sent)

    outbox.release_all()
    outbox.enqueue([event("3")])

    assert (before, delivery.sent_in_order, delivery.sent) == ([], ["1", "2"], ["3"])


def test_some_can_be_released_in_any_order(outbox: WebhookOutbox, delivery: RecordingDelivery) -> None:
    """Released webhooks are sent in the given order; the others stay withheld."""
    outbox.withhold(WithholdFilter())
    outbox.enqueue([event("1"), event("2"), event("3")])

    outbox.release(["3", "1"])
    outbox.enqueue([event("4")])

    assert (delivery.sent_in_order, delivery.sent) == (["3", "1"], [])


@pytest.mark.parametrize(
    ("withhold_filter", "sent"),
    [
        (WithholdFilter(types=frozenset({"A"})), ["3"]),
        (WithholdFilter(connection_ids=frozenset({"c"})), ["2"]),
        (WithholdFilter(types=frozenset({"A"}), connection_ids=frozenset({"c"})), ["2", "3"]),
    ],
)
def test_the_filter_selects_by_type_and_connection(
    outbox: WebhookOutbox, delivery: RecordingDelivery, withhold_filter: WithholdFilter, sent: list[str]
) -> None:
    """Only webhooks of the given types and connections are held back."""
    outbox.withhold(withhold_filter)

    outbox.enqueue([event("1", "A", "c"), event("2", "A", "d"), event("3", "B", "c")])

    assert delivery.sent == sent


def test_only_withheld_webhooks_can_be_released(outbox: WebhookOutbox) -> None:
    """A webhook that was sent cannot be released."""
    outbox.enqueue([event("1")])

    with pytest.raises(AbsentError, match="1"):
        outbox.release(["1"])


def test_a_webhook_can_be_sent_again(outbox: WebhookOutbox, delivery: RecordingDelivery) -> None:
    """A resend has the same event id and bytes."""
    outbox.enqueue([event("1")])

    again = outbox.resend("1")

    assert (again.event, delivery.sent_in_order) == (event("1"), ["1"])
    with pytest.raises(AbsentError):
        outbox.resend("2")

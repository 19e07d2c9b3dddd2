from collections.abc import Sequence

import pytest

from simulator.errors import AbsentError
from simulator.webhooks.mailbox import Mailbox, Withholding
from simulator.webhooks.outgoing_webhook import OutgoingWebhook
from simulator.world.webhook_payloads import Announcement
from tests.simulator.fakes import Clock


class Carrier:
    """Writes down what it is given to carry."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.sent_in_turn: list[str] = []

    def send(self, parcels: Sequence[OutgoingWebhook]) -> None:
        """Write down."""
        self.sent += [parcel.announcement.event_id for parcel in parcels]

    def send_in_turn(self, parcels: Sequence[OutgoingWebhook]) -> None:
        """Write down, apart."""
        self.sent_in_turn += [parcel.announcement.event_id for parcel in parcels]


@pytest.fixture
def carrier() -> Carrier:
    """Whoever delivers."""
    return Carrier()


@pytest.fixture
def mailbox(carrier: Carrier, clock: Clock) -> Mailbox:
    """An empty mailbox."""
    return Mailbox(clock=clock, carrier=carrier)


def announcement(event_id: str, event_type: str = "A", connection_id: str = "c") -> Announcement:
    """Any announcement of that id."""
    return Announcement(event_id=event_id, event_type=event_type, connection_id=connection_id, body=b"{}")


def test_announcements_are_sent_at_once(mailbox: Mailbox, carrier: Carrier) -> None:
    """What is posted is handed to the carrier and kept on record."""
    mailbox.post([announcement("1"), announcement("2")])

    assert carrier.sent == ["1", "2"]
    assert [one.announcement.event_id for one in mailbox.parcels()] == ["1", "2"]


def test_withheld_webhooks_wait_for_their_release(mailbox: Mailbox, carrier: Carrier) -> None:
    """Nothing is sent while everything is withheld; a release of all sends it, oldest first, and ends that."""
    mailbox.withhold(Withholding())
    mailbox.post([announcement("1"), announcement("2")])
    before = list(carrier.sent)

    mailbox.release_all()
    mailbox.post([announcement("3")])

    assert (before, carrier.sent_in_turn, carrier.sent) == ([], ["1", "2"], ["3"])


def test_some_can_be_released_in_any_order(mailbox: Mailbox, carrier: Carrier) -> None:
    """Named webhooks leave in the order they are named, and the rest stays withheld."""
    mailbox.withhold(Withholding())
    mailbox.post([announcement("1"), announcement("2"), announcement("3")])

    mailbox.release(["3", "1"])
    mailbox.post([announcement("4")])

    assert (carrier.sent_in_turn, carrier.sent) == (["3", "1"], [])


@pytest.mark.parametrize(
    ("withholding", "sent"),
    [
        (Withholding(types=frozenset({"A"})), ["3"]),
        (Withholding(connection_ids=frozenset({"c"})), ["2"]),
        (Withholding(types=frozenset({"A"}), connection_ids=frozenset({"c"})), ["2", "3"]),
    ],
)
def test_withholding_can_be_narrow(
    mailbox: Mailbox, carrier: Carrier, withholding: Withholding, sent: list[str]
) -> None:
    """Types and connections say what is held back."""
    mailbox.withhold(withholding)

    mailbox.post([announcement("1", "A", "c"), announcement("2", "A", "d"), announcement("3", "B", "c")])

    assert carrier.sent == sent


def test_only_what_is_withheld_can_be_released(mailbox: Mailbox) -> None:
    """A webhook that has left cannot be released."""
    mailbox.post([announcement("1")])

    with pytest.raises(AbsentError, match="1"):
        mailbox.release(["1"])


def test_a_webhook_can_be_sent_again(mailbox: Mailbox, carrier: Carrier) -> None:
    """Sending again keeps the event id and the bytes."""
    mailbox.post([announcement("1")])

    again = mailbox.resend("1")

    assert (again.announcement, carrier.sent_in_turn) == (announcement("1"), ["1"])
    with pytest.raises(AbsentError):
        mailbox.resend("2")

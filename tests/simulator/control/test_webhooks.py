from typing import Any

from starlette.testclient import TestClient

from simulator.simulation import Simulation
from tests.simulator.assertions import STATUS
from tests.simulator.fakes import Receiver
from tests.support.polling import eventually


def test_a_webhook_can_be_sent_without_a_change(client: TestClient, simulation: Simulation, receiver: Receiver) -> None:
    """Any type can be sent for a connection, with any event id and any payload."""
    connection = simulation.world.add()
    body = {"connectionId": connection.id, "eventType": "SOMETHING_NEW", "eventId": "e-1", "payload": {"x": 1}}

    answer = client.post("/sim/webhooks", json=body)

    assert (answer.status_code, answer.json()["eventId"]) == (201, "e-1")
    (received,) = eventually(lambda: receiver.received)
    assert (received.event["eventType"], received.event["payload"]["x"]) == ("SOMETHING_NEW", 1)
    assert received.event["payload"]["connectionId"] == connection.id


def test_a_test_webhook_is_the_default(client: TestClient, receiver: Receiver) -> None:
    """An empty request sends WEBHOOK_TEST."""
    client.post("/sim/webhooks")

    eventually(lambda: receiver.events == [("WEBHOOK_TEST", None)])


def test_a_text_body_is_sent_unchanged(client: TestClient, receiver: Receiver) -> None:
    """A text body is sent unchanged; headers can be omitted."""
    client.post("/sim/webhooks", json={"body": "junk", "headers": {"Meld-Signature": None}})

    (received,) = eventually(lambda: receiver.received)
    assert (received.body, "Meld-Signature" in received.headers) == (b"junk", False)


def test_a_custom_body_keeps_its_event_id(client: TestClient, receiver: Receiver) -> None:
    """A custom JSON body is recorded with its own event id and type."""
    body = {"eventType": "X", "eventId": "e-9", "payload": {}}

    answer = client.post("/sim/webhooks", json={"body": body}).json()

    assert (answer["eventId"], answer["eventType"]) == ("e-9", "X")
    eventually(lambda: [one.event for one in receiver.received] == [body])


def test_retries_can_be_disabled(client: TestClient, receiver: Receiver) -> None:
    """With retry false, a refused webhook is given up at once."""
    receiver.answers = [401]
    client.post("/sim/webhooks", json={"body": "junk", "retry": False})

    eventually(lambda: client.get("/sim/webhooks").json()["webhooks"][0]["state"] == "given up")
    assert len(receiver.received) == 1


def test_the_same_event_can_be_sent_again(client: TestClient, receiver: Receiver) -> None:
    """A resent event has the same bytes."""
    event_id = client.post("/sim/webhooks").json()["eventId"]

    client.post(f"/sim/webhooks/{event_id}/resend")

    first, second = eventually(lambda: len(receiver.received) == 2 and receiver.received)
    assert first.body == second.body


def test_webhooks_are_withheld_and_released_in_any_order(
    client: TestClient, simulation: Simulation, receiver: Receiver
) -> None:
    """Withheld webhooks arrive in the order of their release."""
    client.post("/sim/webhooks/withhold", json={"types": [STATUS]})
    ids = [simulation.world.add().id for _ in range(3)]
    actions = [client.post(f"/sim/connections/{one}/break").json() for one in ids]
    first, second, third = [action["webhooks"][0]["eventId"] for action in actions]

    held = client.get("/sim/webhooks", params={"state": "withheld"}).json()
    client.post("/sim/webhooks/release", json={"eventIds": [third, first]})
    client.post("/sim/webhooks/release")

    assert held["count"] == 3
    eventually(lambda: [one.event["eventId"] for one in receiver.received] == [third, first, second])


def test_every_attempt_is_recorded(client: TestClient, receiver: Receiver) -> None:
    """The record of a webhook has the status and problem of each attempt."""
    receiver.answers = [503]
    client.post("/sim/webhooks")

    def delivered() -> list[dict[str, Any]]:
        return client.get("/sim/webhooks", params={"state": "delivered"}).json()["webhooks"]

    (webhook,) = eventually(delivered)
    assert [(one["status"], one["problem"]) for one in webhook["attempts"]] == [(503, "HTTP error: 503"), (200, None)]

from typing import Any

from starlette.testclient import TestClient

from simulator.simulation import Simulation
from tests.simulator.assertions import STATUS
from tests.simulator.fakes import Receiver
from tests.support.polling import eventually


def test_a_webhook_can_be_sent_although_nothing_happened(
    client: TestClient, stage: Simulation, receiver: Receiver
) -> None:
    """Any type can be sent for a connection, with any event id and any payload."""
    connection = stage.world.add()
    wish = {"connectionId": connection.id, "eventType": "SOMETHING_NEW", "eventId": "e-1", "payload": {"x": 1}}

    answer = client.post("/sim/webhooks", json=wish)

    assert (answer.status_code, answer.json()["eventId"]) == (201, "e-1")
    (received,) = eventually(lambda: receiver.received)
    assert (received.event["eventType"], received.event["payload"]["x"]) == ("SOMETHING_NEW", 1)
    assert received.event["payload"]["connectionId"] == connection.id


def test_a_test_webhook_is_the_default(client: TestClient, receiver: Receiver) -> None:
    """An empty wish sends WEBHOOK_TEST."""
    client.post("/sim/webhooks")

    eventually(lambda: receiver.events == [("WEBHOOK_TEST", None)])


def test_junk_is_sent_as_it_stands(client: TestClient, receiver: Receiver) -> None:
    """A body that is text leaves as it is, with a good signature or without one."""
    client.post("/sim/webhooks", json={"body": "junk", "headers": {"Meld-Signature": None}})

    (received,) = eventually(lambda: receiver.received)
    assert (received.body, "Meld-Signature" in received.headers) == (b"junk", False)


def test_a_body_of_ones_own_keeps_its_event_id(client: TestClient, receiver: Receiver) -> None:
    """A body that is an object is on record under the ids it bears itself."""
    body = {"eventType": "X", "eventId": "e-9", "payload": {}}

    answer = client.post("/sim/webhooks", json={"body": body}).json()

    assert (answer["eventId"], answer["eventType"]) == ("e-9", "X")
    eventually(lambda: [one.event for one in receiver.received] == [body])


def test_a_webhook_need_not_be_retried(client: TestClient, receiver: Receiver) -> None:
    """Without retries a refused webhook is given up at once."""
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
    client: TestClient, stage: Simulation, receiver: Receiver
) -> None:
    """Withheld webhooks arrive when and in the order they are released."""
    client.post("/sim/webhooks/withhold", json={"types": [STATUS]})
    ids = [stage.world.add().id for _ in range(3)]
    acts = [client.post(f"/sim/connections/{one}/break").json() for one in ids]
    first, second, third = [act["webhooks"][0]["eventId"] for act in acts]

    held = client.get("/sim/webhooks", params={"state": "withheld"}).json()
    client.post("/sim/webhooks/release", json={"eventIds": [third, first]})
    client.post("/sim/webhooks/release")

    assert held["count"] == 3
    eventually(lambda: [one.event["eventId"] for one in receiver.received] == [third, first, second])


def test_every_attempt_is_on_record(client: TestClient, receiver: Receiver) -> None:
    """The record of a webhook tells each attempt's times, code and problem."""
    receiver.answers = [503]
    client.post("/sim/webhooks")

    def delivered() -> list[dict[str, Any]]:
        return client.get("/sim/webhooks", params={"state": "delivered"}).json()["webhooks"]

    (webhook,) = eventually(delivered)
    assert [(one["status"], one["problem"]) for one in webhook["attempts"]] == [(503, "HTTP error: 503"), (200, None)]


def test_reads_can_be_scripted_and_looked_at(client: TestClient, stage: Simulation) -> None:
    """Scripted steps strike once; the record tells every read and the counts."""
    connection = stage.world.add()
    client.post("/sim/reads", json={"connectionId": connection.id, "steps": [{"status": 503}]})
    client.get("/bank-linking/connections")
    codes = [client.get(f"/bank-linking/connections/{connection.id}").status_code for _ in range(2)]

    record = client.get("/sim/reads").json()
    of_one = client.get("/sim/reads", params={"connectionId": connection.id}).json()

    assert (codes, [one["status"] for one in record["reads"]]) == ([503, 200], [200, 503, 200])
    assert (record["counts"], record["lists"]) == ({connection.id: 2}, 1)
    assert [one["number"] for one in of_one["reads"]] == [2, 3]


def test_the_record_of_reads_can_be_cleared(client: TestClient) -> None:
    """Clearing forgets the reads and what was scripted."""
    client.get("/bank-linking/connections")
    client.post("/sim/reads", json={"steps": [{"status": 503}]})

    client.delete("/sim/reads")

    assert client.get("/sim/reads").json() == {"reads": [], "counts": {}, "lists": 0}
    assert client.get("/bank-linking/connections").status_code == 200

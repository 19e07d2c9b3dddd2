from typing import Any

import pytest
from starlette.testclient import TestClient

from simulator.faults.settings import Faults
from simulator.server import create_app
from simulator.simulation import Simulation
from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import HEALTHY, LOGIN_REQUIRED
from tests.simulator.assertions import DELETION, STATUS, group
from tests.simulator.fakes import SECRET, WEBHOOK_URL, Receiver
from tests.support.polling import eventually

CONNECTIONS = "/bank-linking/connections"
#: The fields that Meld documents, without the list's key.
FIELDS = {
    "id",
    "accountId",
    "customerId",
    "externalCustomerId",
    "institutionId",
    "institutionName",
    "status",
    "statusReason",
    "activeDuplicateConnectionId",
    "duplicateConnectionIds",
    "createdAt",
    "successfullyAggregatedAt",
    "products",
    "optionalProducts",
    "regions",
    "serviceProviderDetails",
}


def test_a_connection_is_returned_without_an_envelope(client: TestClient, simulation: Simulation) -> None:
    """GET of one connection returns the documented fields without an envelope."""
    connection = simulation.world.add()

    answer = client.get(f"{CONNECTIONS}/{connection.id}")

    assert (answer.status_code, set(answer.json())) == (200, FIELDS)
    assert answer.json() == simulation.world.view(connection.id)


def test_the_list_has_an_envelope_and_keys(client: TestClient, simulation: Simulation) -> None:
    """GET of the list returns connections, count and remaining; each item has its key."""
    for _ in range(3):
        simulation.world.add()

    answer = client.get(CONNECTIONS, params={"limit": 2}).json()

    assert (set(answer), answer["count"], answer["remaining"]) == ({"connections", "count", "remaining"}, 2, 1)
    assert [set(one) for one in answer["connections"]] == [FIELDS | {"key"}] * 2


def test_an_unknown_connection_is_404_in_melds_envelope(client: TestClient) -> None:
    """Errors have code, message, requestId and timestamp at the top level."""
    answer = client.get(f"{CONNECTIONS}/nobody")

    assert (answer.status_code, set(answer.json())) == (404, {"code", "message", "requestId", "timestamp"})


def test_errors_may_come_as_a_list(client: TestClient, simulation: Simulation) -> None:
    """The other form of errors is a quirk."""
    simulation.faults = Faults(errors_listed=True)

    answer = client.get(f"{CONNECTIONS}/nobody").json()

    assert [error["code"] for error in answer["errors"]] == ["NOT_FOUND"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CONNECTIONS),
        ("GET", f"{CONNECTIONS}/any"),
        ("DELETE", f"{CONNECTIONS}/any"),
        ("POST", f"{CONNECTIONS}/any/refresh"),
        ("POST", "/bank-linking/connect/start"),
        ("POST", "/bank-linking/connect/repair"),
    ],
)
def test_without_credentials_everything_is_401(client: TestClient, method: str, path: str) -> None:
    """Every route requires an Authorization header."""
    del client.headers["Authorization"]

    assert client.request(method, path).status_code == 401


@pytest.mark.parametrize(("given", "expected"), [("BASIC k-1", 200), ("BASIC k-2", 401), ("k-1", 401)])
def test_a_configured_key_is_required(receiver: Receiver, given: str, expected: int) -> None:
    """With a configured key, the header must be BASIC and exactly that key."""
    simulation = Simulation(webhook_url=WEBHOOK_URL, webhook_secret=SECRET, api_key="k-1", transport=receiver)

    with TestClient(create_app(simulation)) as client:
        assert client.get(CONNECTIONS, headers={"Authorization": given}).status_code == expected


@pytest.mark.parametrize(
    ("requested", "expected"), [({"Meld-Version": "2023-12-19"}, "2023-12-19"), ({}, "2026-02-03")]
)
def test_the_version_is_echoed(client: TestClient, requested: dict[str, str], expected: str) -> None:
    """Every answer has the version header, errors too."""
    answer = client.get(f"{CONNECTIONS}/nobody", headers=requested)

    assert answer.headers["Meld-Version"] == expected


def test_a_refresh_is_accepted_and_webhooks_follow(
    client: TestClient, simulation: Simulation, receiver: Receiver
) -> None:
    """A refresh of an inactive duplicate returns a request id; webhooks for both switched members follow."""
    refreshed, former = group(simulation.world, 2)

    answer = client.post(f"{CONNECTIONS}/{refreshed}/refresh", json={"products": ["BALANCES"]})

    assert (answer.status_code, answer.json()["serviceProviderDetails"]) == (200, None)
    eventually(lambda: {(STATUS, refreshed), (STATUS, former)} <= set(receiver.events))
    assert simulation.world.connection(former).primary_id == refreshed


def test_a_refresh_may_take_effect_later(client: TestClient, simulation: Simulation, receiver: Receiver) -> None:
    """Until a refresh takes effect, reads show the former state."""
    simulation.faults = Faults(refresh_takes=0.05)
    refreshed, former = group(simulation.world, 2)

    client.post(f"{CONNECTIONS}/{refreshed}/refresh")

    assert client.get(f"{CONNECTIONS}/{refreshed}").json()["activeDuplicateConnectionId"] == former
    eventually(lambda: (STATUS, refreshed) in receiver.events)


@pytest.mark.parametrize(
    ("body", "expected"), [({"products": ["OWNERS"]}, 200), ({"products": ["IDENTIFIERS"]}, 400), ([1], 400)]
)
def test_a_refresh_requires_granted_products(
    client: TestClient, simulation: Simulation, body: Any, expected: int
) -> None:
    """Products that were not granted, and bodies that are not an object, are refused."""
    connection = simulation.world.add()

    assert client.post(f"{CONNECTIONS}/{connection.id}/refresh", json=body).status_code == expected


def test_a_connection_that_requires_a_reconnect_cannot_be_refreshed(client: TestClient, simulation: Simulation) -> None:
    """A refresh in RECONNECT_REQUIRED is answered 409, unless the quirk reconnect_refreshable is on."""
    connection = simulation.world.add(LOGIN_REQUIRED)
    path = f"{CONNECTIONS}/{connection.id}/refresh"
    before = client.post(path).status_code
    simulation.faults = Faults(reconnect_refreshable=True)

    assert (before, client.post(path).status_code) == (409, 200)


def test_a_deletion_is_announced_and_final(client: TestClient, simulation: Simulation, receiver: Receiver) -> None:
    """DELETE returns an empty 200, the webhook DELETED follows, and a second DELETE is 409."""
    connection = simulation.world.add()
    path = f"{CONNECTIONS}/{connection.id}"

    answers = [client.delete(path), client.delete(path)]

    assert [(answer.status_code, bool(answer.content)) for answer in answers] == [(200, False), (409, True)]
    eventually(lambda: receiver.events == [(DELETION, connection.id)])


def test_a_connect_start_creates_a_connection_in_progress(client: TestClient, simulation: Simulation) -> None:
    """Starting returns the new connection's id and a token for the widget."""
    answer = client.post(
        "/bank-linking/connect/start", json={"externalCustomerId": "c-1", "allowRedirect": True}
    ).json()

    assert set(answer) == {"id", "customerId", "externalCustomerId", "connectToken", "widgetUrl"}
    assert simulation.world.view(answer["id"])["status"] == "IN_PROGRESS"


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"externalCustomerId": ""}', b'{"externalCustomerId":"c","products":["X"]}']
)
def test_an_invalid_connect_start_is_400(client: TestClient, body: bytes) -> None:
    """A start requires JSON, the customer's id and known products."""
    assert client.post("/bank-linking/connect/start", content=body).status_code == 400


def test_a_repair_start_leaves_the_state_unchanged(client: TestClient, simulation: Simulation) -> None:
    """Starting a repair returns the broken connection's id; a healthy one is answered 409."""
    broken, healthy = simulation.world.add(LOGIN_REQUIRED), simulation.world.add()

    answers = [client.post("/bank-linking/connect/repair", json={"connectionId": one.id}) for one in (broken, healthy)]

    assert [answer.status_code for answer in answers] == [200, 409]
    assert answers[0].json()["id"] == broken.id
    assert simulation.world.connection(broken.id).state == LOGIN_REQUIRED


def test_connections_with_the_same_customer_share_the_customers_id(client: TestClient, simulation: Simulation) -> None:
    """Connections with one external customer id get one Meld customer id."""
    first = simulation.world.add(HEALTHY, NewConnection(external_customer_id="c-1"))

    answer = client.post("/bank-linking/connect/start", json={"externalCustomerId": "c-1"}).json()

    assert answer["customerId"] == first.customer_id

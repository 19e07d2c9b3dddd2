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
#: The fields that Meld documents, but for the list's key.
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


def test_a_connection_is_read_bare(client: TestClient, stage: Simulation) -> None:
    """GET one answers the documented fields without an envelope."""
    connection = stage.world.add()

    answer = client.get(f"{CONNECTIONS}/{connection.id}")

    assert (answer.status_code, set(answer.json())) == (200, FIELDS)
    assert answer.json() == stage.world.view(connection.id)


def test_the_list_has_an_envelope_and_keys(client: TestClient, stage: Simulation) -> None:
    """GET list answers connections, count and remaining; each item has its key."""
    for _ in range(3):
        stage.world.add()

    answer = client.get(CONNECTIONS, params={"limit": 2}).json()

    assert (set(answer), answer["count"], answer["remaining"]) == ({"connections", "count", "remaining"}, 2, 1)
    assert [set(one) for one in answer["connections"]] == [FIELDS | {"key"}] * 2


def test_an_unknown_connection_is_404_in_melds_envelope(client: TestClient) -> None:
    """Errors bear code, message, requestId and timestamp at the top level."""
    answer = client.get(f"{CONNECTIONS}/nobody")

    assert (answer.status_code, set(answer.json())) == (404, {"code", "message", "requestId", "timestamp"})


def test_errors_may_come_as_a_list(client: TestClient, stage: Simulation) -> None:
    """The other form of an error is a habit."""
    stage.faults = Faults(errors_listed=True)

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
    """No Authorization header, no answer."""
    del client.headers["Authorization"]

    assert client.request(method, path).status_code == 401


@pytest.mark.parametrize(("given", "expected"), [("BASIC k-1", 200), ("BASIC k-2", 401), ("k-1", 401)])
def test_a_configured_key_is_insisted_on(receiver: Receiver, given: str, expected: int) -> None:
    """With a key configured, the header is the word BASIC and exactly that key."""
    stage = Simulation(webhook_url=WEBHOOK_URL, webhook_secret=SECRET, api_key="k-1", transport=receiver)

    with TestClient(create_app(stage)) as client:
        assert client.get(CONNECTIONS, headers={"Authorization": given}).status_code == expected


@pytest.mark.parametrize(("asked", "expected"), [({"Meld-Version": "2023-12-19"}, "2023-12-19"), ({}, "2026-02-03")])
def test_the_version_is_echoed(client: TestClient, asked: dict[str, str], expected: str) -> None:
    """Every answer tells the version, errors too."""
    answer = client.get(f"{CONNECTIONS}/nobody", headers=asked)

    assert answer.headers["Meld-Version"] == expected


def test_a_refresh_is_accepted_and_webhooks_follow(client: TestClient, stage: Simulation, receiver: Receiver) -> None:
    """Refreshing an inactive duplicate answers a request id, then both switched members are announced."""
    refreshed, former = group(stage.world, 2)

    answer = client.post(f"{CONNECTIONS}/{refreshed}/refresh", json={"products": ["BALANCES"]})

    assert (answer.status_code, answer.json()["serviceProviderDetails"]) == (200, None)
    eventually(lambda: {(STATUS, refreshed), (STATUS, former)} <= set(receiver.events))
    assert stage.world.connection(former).primary_id == refreshed


def test_a_refresh_may_take_its_time(client: TestClient, stage: Simulation, receiver: Receiver) -> None:
    """Until a refresh has had its effect, reads show the state before."""
    stage.faults = Faults(refresh_takes=0.05)
    refreshed, former = group(stage.world, 2)

    client.post(f"{CONNECTIONS}/{refreshed}/refresh")

    assert client.get(f"{CONNECTIONS}/{refreshed}").json()["activeDuplicateConnectionId"] == former
    eventually(lambda: (STATUS, refreshed) in receiver.events)


@pytest.mark.parametrize(
    ("body", "expected"), [({"products": ["OWNERS"]}, 200), ({"products": ["IDENTIFIERS"]}, 400), ([1], 400)]
)
def test_a_refresh_names_granted_products(client: TestClient, stage: Simulation, body: Any, expected: int) -> None:
    """Products that were not granted, and bodies that are no object, are refused at once."""
    connection = stage.world.add()

    assert client.post(f"{CONNECTIONS}/{connection.id}/refresh", json=body).status_code == expected


def test_what_needs_its_customer_cannot_be_refreshed(client: TestClient, stage: Simulation) -> None:
    """RECONNECT_REQUIRED answers 409, unless Meld's other page is believed."""
    connection = stage.world.add(LOGIN_REQUIRED)
    path = f"{CONNECTIONS}/{connection.id}/refresh"
    before = client.post(path).status_code
    stage.faults = Faults(reconnect_refreshable=True)

    assert (before, client.post(path).status_code) == (409, 200)


def test_a_deletion_is_announced_and_final(client: TestClient, stage: Simulation, receiver: Receiver) -> None:
    """DELETE answers an empty 200, DELETED follows, and a second DELETE is 409."""
    connection = stage.world.add()
    path = f"{CONNECTIONS}/{connection.id}"

    answers = [client.delete(path), client.delete(path)]

    assert [(answer.status_code, bool(answer.content)) for answer in answers] == [(200, False), (409, True)]
    eventually(lambda: receiver.events == [(DELETION, connection.id)])


def test_connecting_starts_in_progress(client: TestClient, stage: Simulation) -> None:
    """Starting answers the new connection's id and a token for the widget."""
    answer = client.post(
        "/bank-linking/connect/start", json={"externalCustomerId": "c-1", "allowRedirect": True}
    ).json()

    assert set(answer) == {"id", "customerId", "externalCustomerId", "connectToken", "widgetUrl"}
    assert stage.world.view(answer["id"])["status"] == "IN_PROGRESS"


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"externalCustomerId": ""}', b'{"externalCustomerId":"c","products":["X"]}']
)
def test_a_start_without_its_customer_is_400(client: TestClient, body: bytes) -> None:
    """The customer's id is required, JSON is too, and products come from Meld's list."""
    assert client.post("/bank-linking/connect/start", content=body).status_code == 400


def test_a_repair_leaves_the_state_until_the_customer_is_done(client: TestClient, stage: Simulation) -> None:
    """Repairing answers the broken connection's id; a healthy one has nothing to repair."""
    broken, healthy = stage.world.add(LOGIN_REQUIRED), stage.world.add()

    answers = [client.post("/bank-linking/connect/repair", json={"connectionId": one.id}) for one in (broken, healthy)]

    assert [answer.status_code for answer in answers] == [200, 409]
    assert answers[0].json()["id"] == broken.id
    assert stage.world.connection(broken.id).state == LOGIN_REQUIRED


def test_connections_with_the_same_customer_share_the_customers_id(client: TestClient, stage: Simulation) -> None:
    """Meld's customer id follows the external one."""
    first = stage.world.add(HEALTHY, NewConnection(external_customer_id="c-1"))

    answer = client.post("/bank-linking/connect/start", json={"externalCustomerId": "c-1"}).json()

    assert answer["customerId"] == first.customer_id

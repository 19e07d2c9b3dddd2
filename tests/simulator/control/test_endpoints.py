from typing import Any

import pytest
from starlette.testclient import TestClient

from simulator.simulation import Simulation
from tests.simulator.assertions import COMPLETED, group
from tests.simulator.fakes import Receiver
from tests.support.polling import eventually


def create(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    """Create connections and return them."""
    answer = client.post("/sim/connections", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["connections"]


def test_connections_are_created_without_webhooks(client: TestClient, simulation: Simulation) -> None:
    """Created connections have the given fields, and no webhook is sent."""
    (made,) = create(client, id="mine", status="DEGRADED", reason="INTERACTIVE_REFRESH", externalCustomerId="c-1")

    assert (made["id"], made["status"], made["externalCustomerId"]) == ("mine", "DEGRADED", "c-1")
    assert simulation.outbox.webhooks() == []


def test_groups_are_created_whole(client: TestClient) -> None:
    """Two groups of three are six connections, each group with its newest member as primary."""
    made = create(client, count=2, group=3, status="RECONNECT_REQUIRED", reason="LOGIN_REQUIRED")

    primaries = [one["activeDuplicateConnectionId"] for one in made]
    assert primaries == [made[2]["id"]] * 3 + [made[5]["id"]] * 3
    assert [one["status"] for one in made[:3]] == ["PARTIALLY_ACTIVE", "PARTIALLY_ACTIVE", "RECONNECT_REQUIRED"]


def test_created_connections_can_be_announced(client: TestClient, receiver: Receiver) -> None:
    """With announce, connections are created through the widget, with its webhooks."""
    made = create(client, group=2, status="DEGRADED", reason="INTERACTIVE_REFRESH", announce=True)

    completed = {(COMPLETED, one["id"]) for one in made}
    eventually(lambda: completed <= set(receiver.events))


def test_the_control_api_shows_the_present_state_regardless_of_faults(
    client: TestClient, simulation: Simulation
) -> None:
    """Single connections and the list show the present state, including deleted connections."""
    simulation.world.delete(simulation.world.add().id)
    simulation.world.add()
    client.post("/sim/faults", json={"deleted_gone": True, "failing": 1})

    state = client.get("/sim/connections").json()

    assert (state["count"], [one["status"] for one in state["connections"]]) == (2, ["DELETED", "ACTIVE"])
    assert client.get(f"/sim/connections/{state['connections'][0]['id']}").json() == state["connections"][0]


ACTIONS = [
    ("complete", "IN_PROGRESS", {}, "ACTIVE"),
    ("expire", "IN_PROGRESS", {}, "EXPIRED"),
    ("break", "ACTIVE", {}, "RECONNECT_REQUIRED"),
    ("break", "ACTIVE", {"status": "DEGRADED", "reason": "INTERACTIVE_REFRESH"}, "DEGRADED"),
    ("state", "ACTIVE", {"status": "HIBERNATING"}, "HIBERNATING"),
    ("heal", "DEGRADED", {}, "ACTIVE"),
    ("repair", "DEGRADED", {}, "ACTIVE"),
    ("refresh", "ACTIVE", {"products": ["OWNERS"]}, "ACTIVE"),
    ("aggregate", "ACTIVE", {}, "ACTIVE"),
    ("delete", "ACTIVE", {}, "DELETED"),
]


@pytest.mark.parametrize(("action", "before", "body", "after"), ACTIONS)
def test_each_action_leads_to_its_state(
    client: TestClient, action: str, before: str, body: dict[str, Any], after: str
) -> None:
    """Each action leads to its state, and returns the connection and its webhooks."""
    (made,) = create(client, status=before)

    answer = client.post(f"/sim/connections/{made['id']}/{action}", json=body)

    assert (answer.status_code, answer.json()["connection"]["status"]) == (200, after)
    assert {one["connectionId"] for one in answer.json()["webhooks"]} <= {made["id"]}


def test_actions_on_two_connections_name_the_other(client: TestClient) -> None:
    """Complete names the duplicated connection; join names the other one."""
    first, second = create(client, externalCustomerId="c-1", count=2)
    (third,) = create(client, externalCustomerId="c-1", status="IN_PROGRESS")

    client.post(f"/sim/connections/{second['id']}/join", json={"with": first["id"]})
    client.post(f"/sim/connections/{third['id']}/complete", json={"duplicateOf": first["id"]})

    state = client.get(f"/sim/connections/{first['id']}").json()
    assert state["activeDuplicateConnectionId"] == third["id"]
    assert state["duplicateConnectionIds"] == [third["id"], second["id"]]


def test_an_action_can_be_run_without_webhooks(client: TestClient, simulation: Simulation) -> None:
    """With announce false, an action changes the state and creates no webhook."""
    (made,) = create(client)

    client.post(f"/sim/connections/{made['id']}/break", json={"announce": False})

    assert (simulation.world.view(made["id"])["status"], simulation.outbox.webhooks()) == ("RECONNECT_REQUIRED", [])


INACTIVE = {"status": "PARTIALLY_ACTIVE", "reason": "INACTIVE_DUPLICATE"}
BAD = [
    (("POST", "/sim/connections", {"count": 0}), (400, "count")),
    (("POST", "/sim/connections", {"colour": "red"}), (400, "colour")),
    (("POST", "/sim/connections", {"id": "x", "count": 2}), (400, "id")),
    (("POST", "/sim/connections", {"products": ["MONEY"]}), (400, "MONEY")),
    (("POST", "/sim/connections", {"status": "IN_PROGRESS", "group": 2}), (409, "in progress")),
    (("POST", "/sim/connections/nobody/break", {}), (404, "nobody")),
    (("POST", "/sim/connections/known/explode", {}), (404, "explode")),
    (("POST", "/sim/connections/known/heal", {}), (409, "heal is impossible")),
    (("POST", "/sim/connections/known/state", {}), (400, "status")),
    (("POST", "/sim/connections/known/state", INACTIVE), (409, "group")),
    (("POST", "/sim/faults", {"lost": 2}), (400, "lost")),
    (("POST", "/sim/faults", []), (400, "body")),
    (("POST", "/sim/life", {"rate": -1}), (400, "rate")),
    (("POST", "/sim/webhooks", {"connectionId": "nobody"}), (404, "nobody")),
    (("POST", "/sim/webhooks/release", {"eventIds": ["e"]}), (404, "e")),
    (("POST", "/sim/webhooks/e/resend", {}), (404, "e")),
    (("POST", "/sim/reads", {"steps": [{"delay": -1}]}), (400, "delay")),
    (("GET", "/sim/nowhere", None), (404, "Not Found")),
]


@pytest.mark.parametrize(("request_line", "expected"), BAD)
def test_an_invalid_request_is_answered_with_problem_details(
    client: TestClient, request_line: tuple[str, str, Any], expected: tuple[int, str]
) -> None:
    """An invalid request is answered with problem details that name the reason."""
    create(client, id="known")
    (method, path, body), (status, named) = request_line, expected

    answer = client.request(method, path, json=body)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert named in answer.json()["detail"]


def test_faults_are_set_changed_and_cleared(client: TestClient) -> None:
    """POST replaces the faults, PATCH adds to them, an empty POST clears them."""
    client.post("/sim/faults", json={"lost": 0.5, "slow": "0.1:3"})
    changed = client.patch("/sim/faults", json={"lost": 0.25}).json()
    cleared = client.post("/sim/faults", json={}).json()

    assert (changed["lost"], changed["slow"]) == (0.25, {"probability": 0.1, "seconds": 3.0})
    assert cleared == client.get("/sim/faults").json()
    assert (cleared["lost"], cleared["credentials"]) == (0.0, True)


def test_random_activity_can_be_started(client: TestClient, simulation: Simulation) -> None:
    """A rate starts the random activity; 0 stops it."""
    client.post("/sim/life", json={"rate": 500})
    eventually(lambda: len(simulation.outbox.webhooks()) > 20)

    assert client.post("/sim/life", json={"rate": 0}).json() == {"rate": 0}


def test_a_reset_deletes_everything_and_creates_a_population(
    client: TestClient, simulation: Simulation, receiver: Receiver
) -> None:
    """After a reset there are only the new connections: no reads, webhooks, faults or activity."""
    receiver.answers = [500] * 10_000
    simulation.send_webhooks(simulation.world.delete(group(simulation.world, 2)[0]))
    client.post("/sim/faults", json={"failing": 1})
    client.post("/sim/life", json={"rate": 50})
    client.get("/bank-linking/connections")

    client.post("/sim/reset", json={"connections": 5})

    assert client.get("/sim").json() == {
        "accountId": simulation.world.account_id,
        "connections": 5,
        "reads": 0,
        "webhooks": 0,
        "rate": 0.0,
        "faults": {},
    }
    assert client.get("/bank-linking/connections").json()["count"] == 5

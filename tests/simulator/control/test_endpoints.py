from typing import Any

import pytest
from starlette.testclient import TestClient

from simulator.simulation import Simulation
from tests.simulator.assertions import COMPLETED, group
from tests.simulator.fakes import Receiver
from tests.support.polling import eventually


def create(client: TestClient, **wish: Any) -> list[dict[str, Any]]:
    """The connections that were made."""
    answer = client.post("/sim/connections", json=wish)
    assert answer.status_code == 201, answer.text
    return answer.json()["connections"]


def test_connections_are_made_in_silence(client: TestClient, stage: Simulation) -> None:
    """Created connections are simply there, with what was said of them."""
    (made,) = create(client, id="mine", status="DEGRADED", reason="INTERACTIVE_REFRESH", externalCustomerId="c-1")

    assert (made["id"], made["status"], made["externalCustomerId"]) == ("mine", "DEGRADED", "c-1")
    assert stage.mailbox.parcels() == []


def test_groups_are_made_whole(client: TestClient) -> None:
    """Two groups of three are six connections, each group with its newest member as primary."""
    made = create(client, count=2, group=3, status="RECONNECT_REQUIRED", reason="LOGIN_REQUIRED")

    primaries = [one["activeDuplicateConnectionId"] for one in made]
    assert primaries == [made[2]["id"]] * 3 + [made[5]["id"]] * 3
    assert [one["status"] for one in made[:3]] == ["PARTIALLY_ACTIVE", "PARTIALLY_ACTIVE", "RECONNECT_REQUIRED"]


def test_made_connections_can_be_announced(client: TestClient, receiver: Receiver) -> None:
    """Announced connections come through the widget."""
    made = create(client, group=2, status="DEGRADED", reason="INTERACTIVE_REFRESH", announce=True)

    completed = {(COMPLETED, one["id"]) for one in made}
    eventually(lambda: completed <= set(receiver.events))


def test_the_truth_is_shown_whatever_reads_answer(client: TestClient, stage: Simulation) -> None:
    """The truth has every connection, one by one or all, deleted ones too."""
    stage.world.delete(stage.world.add().id)
    stage.world.add()
    client.post("/sim/faults", json={"deleted_gone": True, "failing": 1})

    truth = client.get("/sim/connections").json()

    assert (truth["count"], [one["status"] for one in truth["connections"]]) == (2, ["DELETED", "ACTIVE"])
    assert client.get(f"/sim/connections/{truth['connections'][0]['id']}").json() == truth["connections"][0]


ACTS = [
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


@pytest.mark.parametrize(("act", "before", "body", "after"), ACTS)
def test_acts_have_names(client: TestClient, act: str, before: str, body: dict[str, Any], after: str) -> None:
    """Each act leads to its state, and answers the truth and the webhooks it made."""
    (made,) = create(client, status=before)

    answer = client.post(f"/sim/connections/{made['id']}/{act}", json=body)

    assert (answer.status_code, answer.json()["connection"]["status"]) == (200, after)
    assert {one["connectionId"] for one in answer.json()["webhooks"]} <= {made["id"]}


def test_acts_on_two_connections_name_the_other(client: TestClient) -> None:
    """Completing names what it duplicates; joining names with whom."""
    first, second = create(client, externalCustomerId="c-1", count=2)
    (third,) = create(client, externalCustomerId="c-1", status="IN_PROGRESS")

    client.post(f"/sim/connections/{second['id']}/join", json={"with": first["id"]})
    client.post(f"/sim/connections/{third['id']}/complete", json={"duplicateOf": first["id"]})

    truth = client.get(f"/sim/connections/{first['id']}").json()
    assert truth["activeDuplicateConnectionId"] == third["id"]
    assert truth["duplicateConnectionIds"] == [third["id"], second["id"]]


def test_an_act_can_be_silent(client: TestClient, stage: Simulation) -> None:
    """Without announcement an act changes the truth and makes no webhook."""
    (made,) = create(client)

    client.post(f"/sim/connections/{made['id']}/break", json={"announce": False})

    assert (stage.world.view(made["id"])["status"], stage.mailbox.parcels()) == ("RECONNECT_REQUIRED", [])


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


@pytest.mark.parametrize(("wish", "expected"), BAD)
def test_a_bad_wish_is_a_problem(client: TestClient, wish: tuple[str, str, Any], expected: tuple[int, str]) -> None:
    """Whatever cannot be granted is answered with a problem that says why."""
    create(client, id="known")
    (method, path, body), (status, named) = wish, expected

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


def test_the_world_can_live(client: TestClient, stage: Simulation) -> None:
    """A rate of life makes things happen until it is set to nothing."""
    client.post("/sim/life", json={"rate": 500})
    eventually(lambda: len(stage.mailbox.parcels()) > 20)

    assert client.post("/sim/life", json={"rate": 0}).json() == {"rate": 0}


def test_a_reset_begins_anew(client: TestClient, stage: Simulation, receiver: Receiver) -> None:
    """After a reset there are so many connections, and nothing of what was."""
    receiver.answers = [500] * 10_000
    stage.tell(stage.world.delete(group(stage.world, 2)[0]))
    client.post("/sim/faults", json={"failing": 1})
    client.post("/sim/life", json={"rate": 50})
    client.get("/bank-linking/connections")

    client.post("/sim/reset", json={"connections": 5})

    assert client.get("/sim").json() == {
        "accountId": stage.world.account_id,
        "connections": 5,
        "reads": 0,
        "webhooks": 0,
        "rate": 0.0,
        "faults": {},
    }
    assert client.get("/bank-linking/connections").json()["count"] == 5

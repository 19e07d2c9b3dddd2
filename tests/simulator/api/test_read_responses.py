from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from simulator.api.read_responses import ConnectionAbortedByFaultError
from simulator.faults.read_script import ScriptedRead
from simulator.faults.settings import Faults
from simulator.simulation import Simulation
from tests.support.polling import eventually


@pytest.fixture
def connection_id(simulation: Simulation) -> str:
    """A healthy connection."""
    return simulation.world.add().id


def path(connection_id: str) -> str:
    """Return the URL path of a connection."""
    return f"/bank-linking/connections/{connection_id}"


def test_scripted_steps_are_used_in_order(client: TestClient, simulation: Simulation, connection_id: str) -> None:
    """A status, HTML, a list, null and another status are each returned once; then the real connection."""
    simulation.script.add(
        connection_id,
        [
            ScriptedRead(status=429, headers={"Retry-After": "1"}),
            ScriptedRead(body="<html>"),
            ScriptedRead(body=[1]),
            ScriptedRead(body=None),
            ScriptedRead(status=202),
        ],
    )

    answers = [client.get(path(connection_id)) for _ in range(6)]

    assert [answer.status_code for answer in answers] == [429, 200, 200, 200, 202, 200]
    assert [answer.text for answer in answers[1:4]] == ["<html>", "[1]", "null"]
    assert (answers[0].headers["Retry-After"], answers[0].json()["code"]) == ("1", "TOO_MANY_REQUESTS")
    assert {answer.json()["id"] for answer in answers[4:]} == {connection_id}


def test_a_slow_read_shows_the_state_of_its_beginning(
    client: TestClient, simulation: Simulation, connection_id: str
) -> None:
    """A change during a read is not in its answer."""
    simulation.script.add(connection_id, [ScriptedRead(delay=0.2)])

    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client.get, path(connection_id))
        eventually(lambda: simulation.reads.count(connection_id))
        simulation.world.break_connection(connection_id)

    assert answer.result().json()["status"] == "ACTIVE"
    assert client.get(path(connection_id)).json()["status"] == "RECONNECT_REQUIRED"


def test_a_stale_read_shows_an_earlier_state(client: TestClient, simulation: Simulation, connection_id: str) -> None:
    """A step may have a read lag, as an eventually consistent Meld has."""
    simulation.world.break_connection(connection_id)
    simulation.script.add(connection_id, [ScriptedRead(stale=60)])

    assert [client.get(path(connection_id)).json()["status"] for _ in range(2)] == ["ACTIVE", "RECONNECT_REQUIRED"]


def test_random_faults_apply_without_a_script(client: TestClient, simulation: Simulation, connection_id: str) -> None:
    """A script takes precedence over random faults."""
    simulation.faults = Faults(failing=1)
    simulation.script.add(connection_id, [ScriptedRead()])

    assert [client.get(path(connection_id)).status_code for _ in range(2)] == [200, 500]


def test_every_read_takes_its_latency(client: TestClient, simulation: Simulation, connection_id: str) -> None:
    """Every recorded read takes at least the latency."""
    simulation.faults = Faults(latency_ms=30)

    client.get(path(connection_id))

    (read,) = simulation.reads.all()
    assert read.ended_at is not None
    assert (read.ended_at - read.began_at).total_seconds() >= 0.03


def test_a_cut_connection_gets_no_answer(client: TestClient, simulation: Simulation, connection_id: str) -> None:
    """Without a socket, a cut raises an error; the log records it either way."""
    simulation.script.add(connection_id, [ScriptedRead(cut=True)])

    with pytest.raises(ConnectionAbortedByFaultError):
        client.get(path(connection_id))
    assert [(read.outcome, read.status) for read in simulation.reads.all()] == [("cut", None)]


def test_the_list_has_its_own_script(client: TestClient, simulation: Simulation) -> None:
    """Steps without a connection apply to the list; a shift moves the pages after the first."""
    for _ in range(4):
        simulation.world.add()
    simulation.script.add(None, [ScriptedRead(status=500), ScriptedRead(shift=1), ScriptedRead(shift=1)])
    url = "/bank-linking/connections"

    failed = client.get(url)
    first = client.get(url, params={"limit": 2}).json()["connections"]
    second = client.get(url, params={"limit": 2, "after": first[-1]["key"]}).json()["connections"]

    assert (failed.status_code, first[-1]["id"]) == (500, second[0]["id"])
    assert simulation.reads.count(None) == 3


def test_refused_reads_are_recorded(client: TestClient, simulation: Simulation, connection_id: str) -> None:
    """A read without credentials is recorded with status 401."""
    del client.headers["Authorization"]

    client.get(path(connection_id))

    assert [(read.connection_id, read.status) for read in simulation.reads.all()] == [(connection_id, 401)]

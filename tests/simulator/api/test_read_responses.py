from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from simulator.api.read_responses import ConnectionCutError
from simulator.faults.read_script import ScriptedRead
from simulator.faults.settings import Faults
from simulator.simulation import Simulation
from tests.support.polling import eventually


@pytest.fixture
def connection_id(stage: Simulation) -> str:
    """A healthy connection."""
    return stage.world.add().id


def path(connection_id: str) -> str:
    """Where it is read."""
    return f"/bank-linking/connections/{connection_id}"


def test_scripted_steps_come_in_their_order(client: TestClient, stage: Simulation, connection_id: str) -> None:
    """A code, a page of HTML and a list are each answered once; then the truth again."""
    stage.script.add(
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


def test_a_slow_read_answers_the_truth_of_its_beginning(
    client: TestClient, stage: Simulation, connection_id: str
) -> None:
    """What changes while a read is under way is not in its answer."""
    stage.script.add(connection_id, [ScriptedRead(delay=0.2)])

    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client.get, path(connection_id))
        eventually(lambda: stage.reads.count(connection_id))
        stage.world.damage(connection_id)

    assert answer.result().json()["status"] == "ACTIVE"
    assert client.get(path(connection_id)).json()["status"] == "RECONNECT_REQUIRED"


def test_a_stale_read_answers_the_past(client: TestClient, stage: Simulation, connection_id: str) -> None:
    """A step may look back, as a Meld that is not consistent yet would."""
    stage.world.damage(connection_id)
    stage.script.add(connection_id, [ScriptedRead(stale=60)])

    assert [client.get(path(connection_id)).json()["status"] for _ in range(2)] == ["ACTIVE", "RECONNECT_REQUIRED"]


def test_faults_strike_where_no_script_is(client: TestClient, stage: Simulation, connection_id: str) -> None:
    """A script wins over the faults, for as long as it lasts."""
    stage.faults = Faults(failing=1)
    stage.script.add(connection_id, [ScriptedRead()])

    assert [client.get(path(connection_id)).status_code for _ in range(2)] == [200, 500]


def test_every_read_takes_its_latency(client: TestClient, stage: Simulation, connection_id: str) -> None:
    """The latency is in every read's record."""
    stage.faults = Faults(latency_ms=30)

    client.get(path(connection_id))

    (read,) = stage.reads.all()
    assert read.ended_at is not None
    assert (read.ended_at - read.began_at).total_seconds() >= 0.03


def test_a_cut_connection_is_no_answer(client: TestClient, stage: Simulation, connection_id: str) -> None:
    """Where there is no socket to break, the break is an error; it is on record either way."""
    stage.script.add(connection_id, [ScriptedRead(cut=True)])

    with pytest.raises(ConnectionCutError):
        client.get(path(connection_id))
    assert [(read.outcome, read.status) for read in stage.reads.all()] == [("cut", None)]


def test_the_list_has_a_script_of_its_own(client: TestClient, stage: Simulation) -> None:
    """Steps for no connection are for reads of the list; a shift moves the pages after the first."""
    for _ in range(4):
        stage.world.add()
    stage.script.add(None, [ScriptedRead(status=500), ScriptedRead(shift=1), ScriptedRead(shift=1)])
    url = "/bank-linking/connections"

    failed = client.get(url)
    first = client.get(url, params={"limit": 2}).json()["connections"]
    second = client.get(url, params={"limit": 2, "after": first[-1]["key"]}).json()["connections"]

    assert (failed.status_code, first[-1]["id"]) == (500, second[0]["id"])
    assert stage.reads.count(None) == 3


def test_refused_reads_are_on_record(client: TestClient, stage: Simulation, connection_id: str) -> None:
    """A read without credentials counts as a read that was answered 401."""
    del client.headers["Authorization"]

    client.get(path(connection_id))

    assert [(read.connection_id, read.status) for read in stage.reads.all()] == [(connection_id, 401)]

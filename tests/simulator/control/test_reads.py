from starlette.testclient import TestClient

from simulator.simulation import Simulation


def test_reads_can_be_scripted_and_listed(client: TestClient, simulation: Simulation) -> None:
    """Each scripted step is used once; the log lists every read and the counts."""
    connection = simulation.world.add()
    client.post("/sim/reads", json={"connectionId": connection.id, "steps": [{"status": 503}]})
    client.get("/bank-linking/connections")
    codes = [client.get(f"/bank-linking/connections/{connection.id}").status_code for _ in range(2)]

    record = client.get("/sim/reads").json()
    of_one = client.get("/sim/reads", params={"connectionId": connection.id}).json()

    assert (codes, [one["status"] for one in record["reads"]]) == ([503, 200], [200, 503, 200])
    assert (record["counts"], record["lists"]) == ({connection.id: 2}, 1)
    assert [one["number"] for one in of_one["reads"]] == [2, 3]


def test_the_read_log_can_be_cleared(client: TestClient) -> None:
    """Clearing deletes the recorded reads and the script."""
    client.get("/bank-linking/connections")
    client.post("/sim/reads", json={"steps": [{"status": 503}]})

    client.delete("/sim/reads")

    assert client.get("/sim/reads").json() == {"reads": [], "counts": {}, "lists": 0}
    assert client.get("/bank-linking/connections").status_code == 200

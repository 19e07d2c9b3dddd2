from typing import Any

import pytest

from tests.service.conftest import ADMIN_NAME, Api
from tests.service.replay.replay_helpers import acts, row_of, runner_on
from tests.support.scripted_consumer import emit, subscribe
from tests.support.scripted_meld import ScriptedReader, found, make_refetcher
from tests.support.webhook_factory import body, store


def post(api: Api, path: str = "", **fields: Any) -> Any:
    return api.admin.post(f"/api/replays{path}", json=fields)


def create_replay(api: Api, **fields: Any) -> Any:
    answer = post(api, **{"kind": "webhooks", "all": True, **fields})
    assert answer.status_code == 202, answer.text
    return answer.json()


def get(api: Api, id_: str) -> Any:
    return api.reader.get(f"/api/replays/{id_}").json()


def problem(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["detail"]


def test_a_replay_is_started_and_watched(api: Api) -> None:
    """202 with the replay; a read token sees its progress and how many reads are pending."""
    store(api.database, body("c1", newStatus="ACTIVE"), body("c2", newStatus="ACTIVE"))
    refetcher = make_refetcher(api.database, ScriptedReader())
    for id_ in ("c1", "c2"):
        refetcher.refetch(id_)
    replay = create_replay(api, rate=5, state="processed")
    waiting = get(api, replay["id"])
    runner_on(api.database).run(replay["id"])
    requested = get(api, replay["id"])
    for id_ in ("c1", "c2"):
        refetcher.refetch(id_)
    read = get(api, replay["id"])

    assert replay == waiting
    assert (waiting["state"], waiting["total"], waiting["done"]) == ("waiting", None, 0)
    assert (waiting["kind"], waiting["rate"], waiting["filter"]) == ("webhooks", 5, {"state": "processed"})
    assert (requested["state"], requested["total"], requested["done"], requested["pending"]) == ("finished", 2, 2, 2)
    assert (read["pending"], read["finished_at"].endswith("Z")) == (0, True)


def test_events_are_sent_again_to_a_subscription(api: Api) -> None:
    """The subscription is given by name or id; deliveries that are not acknowledged are pending."""
    subscribe(api.database, "s1")
    emit(api.database, "c1", "c1", "c2")
    by_name = create_replay(api, kind="events", subscription="name of s1", after=1)
    by_id = create_replay(api, kind="events", subscription="s1", connection="c2")
    for each in (by_name, by_id):
        runner_on(api.database).run(each["id"])

    assert by_name["subscription_id"] == by_id["subscription_id"] == "s1"
    assert [get(api, each["id"])["pending"] for each in (by_name, by_id)] == [2, 1]
    (delivery,) = [
        row for row in api.reader.get("/api/deliveries").json()["deliveries"] if row["replay_id"] == by_id["id"]
    ]
    assert (delivery["connection_id"], delivery["event_id"]) == ("c2", "event-3")


def test_a_replay_is_stopped_and_resumed(api: Api) -> None:
    """Each response is the changed replay; a repeated request changes nothing and has no audit entry."""
    replay = create_replay(api)
    path = f"/{replay['id']}"
    stopped = [post(api, f"{path}/stop").json() for _ in range(2)]
    resumed = [post(api, f"{path}/resume").json() for _ in range(2)]

    assert [each["state"] for each in (*stopped, *resumed)] == ["stopped", "stopped", "waiting", "waiting"]
    assert stopped[0]["stopped_at"] == stopped[1]["stopped_at"]
    assert [act for act, _who, _subject in acts(api.database)] == ["replay.started", "replay.stopped", "replay.resumed"]
    assert {subject for _act, _who, subject in acts(api.database)} == {replay["id"]}
    assert {who for _act, who, _subject in acts(api.database)} == {ADMIN_NAME}
    assert get(api, replay["id"])["who"] == ADMIN_NAME


def test_a_replay_that_has_ended_cannot_change(api: Api) -> None:
    """A replay that has ended is neither stopped nor resumed: 409, without an audit entry."""
    replay = create_replay(api)
    runner_on(api.database).run(replay["id"])

    answers = [problem(post(api, f"/{replay['id']}/{verb}")) for verb in ("stop", "resume")]

    assert answers == [(409, "This replay has ended. Start another one.")] * 2
    assert len(acts(api.database)) == 1


def test_replays_are_listed(api: Api) -> None:
    """Oldest first, each on one page."""
    ids = [create_replay(api)["id"] for _ in range(3)]
    first = api.reader.get("/api/replays", params={"limit": 2}).json()
    second = api.reader.get("/api/replays", params={"limit": 2, "after": first["next"]}).json()

    assert [each["id"] for each in (*first["replays"], *second["replays"])] == ids
    assert second["next"] is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "'kind'"),
        ({"kind": "webhooks"}, "without a filter covers everything"),
        ({"kind": "webhooks", "rate": 3}, "without a filter covers everything"),
        ({"kind": "events", "subscription": "s1"}, "without a filter covers everything"),
        ({"kind": "events", "all": True}, "'subscription' is required"),
        ({"kind": "webhooks", "all": True, "subscription": "s1"}, "'subscription' is required"),
        ({"kind": "events", "subscription": "s1", "rate": 3, "all": True}, "'rate' is for replays of webhooks"),
        ({"kind": "webhooks", "after": 3}, "A replay of webhooks has no filter 'after'"),
        ({"kind": "events", "subscription": "s1", "state": "failed"}, "A replay of events has no filter 'state'"),
        ({"kind": "events", "subscription": "s1", "type": "nonsense"}, "'type' of an event is one of"),
        ({"kind": "webhooks", "state": "lost"}, "'state'"),
        ({"kind": "webhooks", "since": "yesterday"}, "'since'"),
        ({"kind": "webhooks", "all": True, "rate": 0}, "'rate'"),
        ({"kind": "webhooks", "all": True, "rate": 1001}, "'rate'"),
        ({"kind": "webhooks", "connection": "a\x00b"}, "'connection'"),
        ({"kind": "events", "subscription": "s1", "after": -1}, "'after'"),
        ({"kind": "webhooks", "all": True, "nonsense": 1}, "'nonsense' is an unknown field"),
    ],
)
def test_invalid_requests_are_refused(api: Api, fields: dict[str, Any], message: str) -> None:
    """422 with what to correct; no replay is created, and there is no audit entry."""
    status, detail = problem(post(api, **fields))

    assert status == 422
    assert message in detail
    assert api.reader.get("/api/replays").json()["replays"] == []
    assert acts(api.database) == []


def test_unknown_ids_are_404(api: Api) -> None:
    """An unknown subscription or replay is 404."""
    unknown = [post(api, kind="events", subscription="none", all=True), api.reader.get("/api/replays/none")]
    unknown += [post(api, "/none/stop"), post(api, "/none/resume")]

    assert [problem(answer)[0] for answer in unknown] == [404] * 4


def test_only_admins_change_replays(api: Api) -> None:
    """A read token may only read; without a token the response is 401."""
    replay = create_replay(api)

    acting = [api.reader.post(f"/api/replays{path}", json={}) for path in ("", f"/{replay['id']}/stop")]
    assert [answer.status_code for answer in acting] == [403, 403]
    assert api.anonymous.get("/api/replays").status_code == 401


def test_the_audit_entry_names_the_connection(api: Api) -> None:
    """If the replay is of one connection."""
    create_replay(api, connection="c1")
    create_replay(api)

    with api.database.read() as session:
        connection_ids = (
            session.connection().exec_driver_sql("SELECT connection_id FROM audit ORDER BY id").scalars().all()
        )
    assert list(connection_ids) == ["c1", None]


def test_a_read_names_its_replay(api: Api) -> None:
    """The timeline shows which replay requested a read that found a change."""
    store(api.database, body("c1", newStatus="ACTIVE"))
    reader = ScriptedReader()
    make_refetcher(api.database, reader).refetch("c1")
    replay = create_replay(api)
    runner_on(api.database).run(replay["id"])
    reader.answers["c1"] = found("c1", "DEGRADED")
    make_refetcher(api.database, reader).refetch("c1")

    items = api.reader.get("/api/connections/c1/timeline").json()["timeline"]

    reads = [(item["read"]["trigger"], item["read"]["replay_id"]) for item in items if item["kind"] == "read"]
    assert reads == [("webhook", None), ("replay", replay["id"])]
    assert row_of(api.database, replay["id"]).done == 1

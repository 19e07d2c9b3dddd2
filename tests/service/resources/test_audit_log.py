from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from schemas.tables import DeliveryRow
from tests.service.conftest import ADMIN_NAME, Api
from tests.support import row_factory
from tests.support.scripted_consumer import emit

URL = "https://consumer.example:8443/events/hush?token=hush"


def get_entries(api: Api, **query: Any) -> list[dict[str, Any]]:
    answer = api.admin.get("/api/audit", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["acts"]
    return found


def actions_of(api: Api) -> list[tuple[str, dict[str, Any]]]:
    """Return every audit entry with its details, oldest first."""
    return [(act["act"], act["details"]) for act in reversed(get_entries(api))]


def test_an_entry_has_operator_time_and_connection(api: Api) -> None:
    """An entry has the name of the token, the time, the action and the connection."""
    row_factory.store(api.database, row_factory.connection("c1"))
    api.admin.post("/api/connections/c1/refresh").raise_for_status()

    (act,) = get_entries(api)

    assert act.pop("at").endswith("Z")
    assert act == {
        "id": 1,
        "who": ADMIN_NAME,
        "act": "connection.refreshed",
        "subject": None,
        "connection_id": "c1",
        "details": {},
    }


def test_actions_on_subscriptions_are_audited(api: Api) -> None:
    """Entries have the subscription's id and name; of its URL only the host, and no secret."""
    request = {"name": "crm", "url": URL, "types": ["connection.status_changed"]}
    created = api.admin.post("/api/subscriptions", json=request).raise_for_status().json()
    one = f"/api/subscriptions/{created['id']}"
    emit(api.database, "c1")
    with api.database.write() as session:
        session.exec(update(DeliveryRow).values(dead_at=row_factory.TIME, attempts=1))
    secrets = [created["secret"]]
    for change in ({"state": "paused"}, {"state": "active", "types": []}, {"url": "https://other.example/hush"}):
        api.admin.patch(one, json=change).raise_for_status()
    with api.database.write() as session:
        session.exec(
            update(DeliveryRow).where(col(DeliveryRow.position) == 1).values(dead_at=row_factory.TIME, attempts=1)
        )
    secrets.append(api.admin.post(one + "/rotate").raise_for_status().json()["secret"])
    api.admin.post(one + "/redrive").raise_for_status()
    api.admin.delete(one).raise_for_status()

    named = {"name": "crm"}
    assert actions_of(api) == [
        (
            "subscription.created",
            {
                **named,
                "host": "consumer.example",
                "types": ["connection.status_changed"],
                "after_position": 0,
            },
        ),
        ("subscription.paused", named),
        ("subscription.changed", {**named, "types": []}),
        ("subscription.resumed", named),
        ("subscription.changed", {**named, "host": "other.example"}),
        ("subscription.rotated", named),
        ("subscription.redriven", {**named, "deliveries": 1}),
        ("subscription.removed", named),
    ]
    assert {(act["who"], act["subject"]) for act in get_entries(api)} == {(ADMIN_NAME, created["id"])}
    assert [word for word in ("hush", *secrets) if word in api.admin.get("/api/audit").text] == []


def test_refused_requests_are_not_audited(api: Api) -> None:
    """Nor are requests that change nothing."""
    api.admin.post("/api/subscriptions", json={"name": "crm", "url": URL}).raise_for_status()
    before = get_entries(api)

    statuses = [
        api.admin.post("/api/subscriptions", json={"name": "crm", "url": URL}).status_code,
        api.admin.post("/api/subscriptions", json={"name": "new", "url": "http://inside.example"}).status_code,
        api.admin.patch("/api/subscriptions/crm", json={"url": "https://localhost"}).status_code,
        api.admin.patch("/api/subscriptions/crm", json={}).status_code,
        api.admin.post("/api/subscriptions/crm/redrive").status_code,
        *(api.admin.post(f"/api/subscriptions/nobody/{verb}").status_code for verb in ("rotate", "redrive")),
        api.admin.delete("/api/subscriptions/nobody").status_code,
        api.admin.post("/api/connections/nobody/refresh").status_code,
        api.reader.post("/api/connections/nobody/refresh").status_code,
    ]

    assert statuses == [409, 422, 422, 200, 200, 404, 404, 404, 404, 403]
    assert get_entries(api) == before


@pytest.mark.parametrize(("name", "value"), [("act", "rebuild.applied"), ("who", "bob"), ("connection_id", "c2")])
def test_values_are_filtered(api: Api, name: str, value: str) -> None:
    """A filter keeps the items with exactly its value."""
    row_factory.store(api.database, row_factory.audit_entry(), row_factory.audit_entry(**{name: value}))

    assert [act["id"] for act in get_entries(api, **{name: value})] == [2]


def test_times_are_filtered(api: Api) -> None:
    """``since`` is inclusive, ``until`` is exclusive."""
    times = [row_factory.TIME + timedelta(seconds=seconds) for seconds in range(4)]
    row_factory.store(api.database, *(row_factory.audit_entry(at=time) for time in times))

    found = get_entries(api, since=times[1].isoformat(), until=times[3].isoformat())

    assert [act["id"] for act in found] == [3, 2]


def test_pages_go_back_in_time(api: Api) -> None:
    """Newest first, each once, also if entries are appended meanwhile; the last page has no cursor."""
    row_factory.store(api.database, *(row_factory.audit_entry() for _ in range(5)))

    first = api.admin.get("/api/audit", params={"limit": 2}).json()
    row_factory.store(api.database, row_factory.audit_entry())
    second = api.admin.get("/api/audit", params={"limit": 2, "after": first["next"]}).json()
    third = api.admin.get("/api/audit", params={"limit": 2, "after": second["next"]}).json()

    assert [[act["id"] for act in page["acts"]] for page in (first, second, third)] == [[5, 4], [3, 2], [1]]
    assert third["next"] is None


def test_the_audit_log_needs_an_admin_token(api: Api) -> None:
    """A read token gets 403, no token 401."""
    assert [client.get("/api/audit").status_code for client in (api.anonymous, api.reader)] == [401, 403]

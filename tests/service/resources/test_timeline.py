import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, text, update
from sqlmodel import col

from runtime.database import Database
from schemas import tables
from schemas.api_queries import TimelineQuery
from service.resources.timeline import get_timeline
from tests.service.conftest import Api
from tests.support import query_plans, row_factory
from tests.support.scripted_meld import document
from tests.workers.history.random_past import BEGAN, Past, Read
from workers.history.projection import project_mirrors


def page(api: Api, id_: str = "a", **query: Any) -> dict[str, Any]:
    answer = api.reader.get(f"/api/connections/{id_}/timeline", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def all_pages(api: Api, limit: int, id_: str = "a") -> list[dict[str, Any]]:
    items, query = [], {}
    while True:
        found = page(api, id_, limit=limit, **query)
        items += found["timeline"]
        if found["next"] is None:
            return items
        assert len(found["timeline"]) == limit
        query = {"after": found["next"]}


def create_history(database: Database) -> Past:
    """Create the history of a connection: read, changed and deleted, beside another connection."""
    past = Past(database)
    details = {"serviceProvider": "PLAID", "itemId": "one"}
    past.make_reads(
        Read("a", document("a", serviceProviderDetails=details), "webhook"),
        Read("b", document("b"), "webhook"),
        Read("a", document("a", "DEGRADED", statusReason="OTHER", serviceProviderDetails=details), "webhook"),
        Read("a", document("a", "DEGRADED", statusReason="OTHER", serviceProviderDetails={**details, "itemId": "two"})),
        Read("a", document("a", "DEGRADED", statusReason="OTHER", serviceProviderDetails=details, more=1)),
        Read("a", None, "webhook"),
    )
    # Webhooks are stored with the present time; move each to just before its read.
    with database.write() as session:
        for id_, minute in ((1, 0), (2, 1), (3, 2), (4, 5)):
            arrival = update(tables.WebhookRow).where(col(tables.WebhookRow.id) == id_)
            session.exec(arrival.values(received_at=BEGAN + timedelta(minutes=minute, seconds=-1)))
    return past


def changes(item: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {each["field"]: (each["before"], each["after"]) for each in item["read"]["changes"]}


def test_a_timeline_is_ordered_by_time(api: Api) -> None:
    """It has the webhooks, reads and events of the connection; an event follows its read."""
    create_history(api.database)

    found = page(api)

    items = found["timeline"]
    assert (found["connection_id"], found["next"]) == ("a", None)
    reported = ["webhook", "read", "event"]
    assert [item["kind"] for item in items] == [*reported, *reported, "read", "read", *reported]
    assert [item["at"] for item in items] == sorted(item["at"] for item in items)
    assert {item["webhook"]["connection_id"] for item in items if item["kind"] == "webhook"} == {"a"}
    observations = [item["read"]["observation_id"] for item in items if item["kind"] == "read"]
    causes = [item["event"]["data"]["cause"]["observation_id"] for item in items if item["kind"] == "event"]
    assert causes == [observations[0], observations[1], observations[4]]


def test_reads_list_their_changes(api: Api) -> None:
    """Each field with before and after; for fields that are not shown, the name; a deletion keeps other fields."""
    create_history(api.database)

    first, second, third, fourth, last = [item for item in page(api)["timeline"] if item["kind"] == "read"]

    assert changes(first)["status"] == (None, "ACTIVE")
    assert "duplicate_ids" not in changes(first)
    assert changes(second) == {"status": ("ACTIVE", "DEGRADED"), "status_reason": (None, "OTHER")}
    assert changes(third) == {"service_provider_details.itemId": ("one", "two")}
    assert changes(fourth) == {"service_provider_details.itemId": ("two", "one")}
    assert fourth["read"]["unshown_changes"] == ["more"]
    assert changes(last) == {"status": ("DEGRADED", "DELETED"), "status_reason": ("OTHER", None)}
    assert last["read"]["found"] is False


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_pages_fit_together(api: Api, limit: int) -> None:
    """Pages of any size add up to the same timeline."""
    create_history(api.database)

    assert page(api)["timeline"] == all_pages(api, limit)


def test_changes_begin_at_the_baseline(api: Api) -> None:
    """The first kept read shows its changes against the state before it, which retention has removed."""
    past = create_history(api.database)
    before = [item for item in page(api)["timeline"] if item["kind"] == "read"]

    past.remove_observations("a", before=BEGAN + timedelta(minutes=3))

    assert [item for item in page(api)["timeline"] if item["kind"] == "read"] == before[2:]


def test_a_wrong_clock_loses_no_item(api: Api) -> None:
    """It only changes their order."""
    create_history(api.database)
    with api.database.write() as session:
        session.exec(update(tables.ObservationRow).where(col(tables.ObservationRow.id) == 4).values(ended_at=BEGAN))

    items = all_pages(api, 2)

    assert sorted(item["read"]["observation_id"] for item in items if item["kind"] == "read") == [1, 3, 4, 5, 6]
    assert len(items) == 11


def test_a_rebuilt_event_follows_its_read(api: Api) -> None:
    """The event says that it was rebuilt; the audit entry of the repair is the last item."""
    past = create_history(api.database)
    before = page(api)["timeline"]
    with api.database.write() as session:
        session.connection().execute(text("DELETE FROM event WHERE connection_id = 'a' AND sequence = 2"))

    past.repair()

    *after, repair = page(api)["timeline"]
    assert (repair["kind"], repair["act"]["act"]) == ("act", "connection.mended")
    assert [item["kind"] for item in before] == [item["kind"] for item in after]
    assert after[5]["event"]["id"] == before[5]["event"]["id"]
    assert "rebuilt_at" in after[5]["event"]["data"]["cause"]


def test_a_connection_that_was_never_read_has_a_timeline(api: Api) -> None:
    """It has the webhooks; an unknown connection is 404."""
    row_factory.store(
        api.database,
        row_factory.read_request("c9", requested=1, due_at=row_factory.TIME),
        row_factory.webhook("w9", connection_id="c9"),
    )

    items = page(api, "c9")["timeline"]
    unknown = api.reader.get("/api/connections/nobody/timeline")

    assert [item["webhook"]["event_id"] for item in items] == ["w9"]
    assert (unknown.status_code, unknown.headers["content-type"]) == (404, "application/problem+json")


def test_a_timeline_lists_deliveries_and_actions(api: Api) -> None:
    """Each delivery with its result, after its event; only operator actions on this connection."""
    create_history(api.database)
    at = BEGAN + timedelta(minutes=10)
    outcome = {"at": "2026-01-02T03:14:06Z", "seconds": 0.1, "status": 500, "error": "no", "response": None}
    tried = {"attempts": 1, "tried_at": at, "error": "no", "outcomes": [outcome]}
    row_factory.store(
        api.database,
        row_factory.audit_entry(at=at - timedelta(seconds=1), connection_id="a", details={"n": 1}),
        row_factory.delivery(9, "a", created_at=at, **tried),
        row_factory.delivery(9, "a", created_at=at, subscription_id="s2", delivered_at=at),
        row_factory.delivery(9, "b", created_at=at, subscription_id="s3"),
        row_factory.audit_entry(at=at, connection_id="b"),
        row_factory.audit_entry(at=at, act="reconcile.begun"),
    )

    act, first, second = page(api)["timeline"][11:]

    assert (act["kind"], act["act"]["who"], act["act"]["details"]) == ("act", "alice", {"n": 1})
    assert [(item["kind"], item["delivery"]["state"]) for item in (first, second)] == [
        ("delivery", "pending"),
        ("delivery", "delivered"),
    ]
    assert first["delivery"]["outcomes"] == [outcome]
    assert first["delivery"] == api.reader.get("/api/deliveries").json()["deliveries"][0]
    assert page(api)["timeline"] == all_pages(api, 1)


def test_a_cursor_of_an_older_version_is_accepted(api: Api) -> None:
    """A cursor of an older version has no place in deliveries and actions: all of them follow."""
    create_history(api.database)
    row_factory.store(api.database, row_factory.delivery(1, "a"), row_factory.audit_entry(connection_id="a"))
    cursor = page(api, limit=4)["next"]
    old = "-".join(cursor.split("-")[:4])

    new, items = (page(api, after=after)["timeline"] for after in (cursor, old))

    assert [item for item in items if item["kind"] not in {"delivery", "act"}] == [
        item for item in new if item["kind"] not in {"delivery", "act"}
    ]
    assert {"delivery", "act"} <= {item["kind"] for item in items}


@pytest.mark.parametrize("after", ["", "1", "1-2-3", "1-2-3-x", "-1-2-3-4", "1-2-3-4-5", "9" * 19 + "-0-0-0"])
def test_an_invalid_cursor_is_refused(api: Api, after: str) -> None:
    """A cursor in another format is 422."""
    row_factory.store(api.database, row_factory.connection("a"))

    assert api.reader.get("/api/connections/a/timeline", params={"after": after}).status_code == 422


@pytest.mark.parametrize("after", [None, "7-7-7-7-7-7"])
def test_timelines_are_read_by_index(database: Database, after: str | None) -> None:
    """On either database, no statement of a page scans a table or sorts."""
    query_plans.fill_tables(database)
    with database.write() as session:
        session.exec(delete(tables.BaselineRow))

    with query_plans.record_statements(database) as sent:
        found = get_timeline(database, "c1", TimelineQuery(limit=10, after=after), project_mirrors)
    plans = query_plans.explain_all(database, sent)

    used = {name for plan in plans for name in re.findall(r"\bix_\w+", plan)}
    assert len(found.timeline) == 10
    assert used >= {
        "ix_webhook_connection_id_id",
        "ix_observation_connection_id_id",
        "ix_event_history",
        "ix_delivery_connection_id_id",
        "ix_audit_connection_id_id",
    }
    assert [plan for plan in plans if re.search(r"Seq Scan|Sort|Bitmap|\bSCAN (?!CONSTANT)|TEMP B-TREE", plan)] == []

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from schemas.tables import RejectionRow
from tests.service.conftest import Api
from tests.service.rejected.refused_requests import make_store, refused
from tests.support import row_factory
from tests.support.webhook_factory import body

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def get_rejections(api: Api, **query: Any) -> list[dict[str, Any]]:
    answer = api.reader.get("/api/rejections", params=query)
    assert answer.status_code == 200, answer.text
    rejections: list[dict[str, Any]] = answer.json()["rejections"]
    return rejections


def test_rejected_webhooks_are_listed(api: Api) -> None:
    """Reason, times, count and claimed fields are listed, without body and signature."""
    raw = body("c1", "SOMETHING", "e1", secret="marker-of-body")
    one = refused(raw, at=AT, signed_at=AT + timedelta(minutes=10), **{"user-agent": "Meld"})
    make_store(api.database).insert([one, one])

    answer = api.reader.get("/api/rejections")

    time = "2026-01-02T03:04:05.678901Z"
    assert answer.json() == {
        "rejections": [
            {
                "id": 1,
                "reason": "wrong",
                "state": "refused",
                "event_id": "e1",
                "type": "SOMETHING",
                "likely": True,
                "size": len(raw),
                "whole": True,
                "times": 2,
                "first_at": time,
                "received_at": time,
                "off_seconds": -600,
                "headers": {"meld-signature-timestamp": "2026-01-02T03:14:05.678901+00:00", "user-agent": "Meld"},
                "admitted_at": None,
            }
        ],
        "next": None,
    }
    assert one.headers["meld-signature"] not in answer.text
    assert "marker-of-body" not in answer.text


def test_rejections_are_filtered(api: Api) -> None:
    """By reason, time of the last arrival, and state."""
    store = make_store(api.database)
    for number in range(4):
        store.insert([refused(reason="too_old" if number == 3 else "wrong", at=AT + timedelta(minutes=number))])
    with api.database.write() as session:
        session.exec(update(RejectionRow).where(RejectionRow.id == 2).values(admitted_at=row_factory.TIME))  # type: ignore[arg-type]
    since, until = (AT + timedelta(minutes=1)).isoformat(), (AT + timedelta(minutes=3)).isoformat()

    def ids(**query: Any) -> list[int]:
        return [each["id"] for each in get_rejections(api, **query)]

    assert ids(reason="too_old") == [4]
    assert ids(since=since, until=until) == [2, 3]
    assert (ids(state="admitted"), ids(state="refused")) == ([2], [1, 3, 4])
    assert ids(state="refused", reason="wrong") == [1, 3]


def test_pages_follow_the_cursor(api: Api) -> None:
    """Each once, in the order of the first arrival."""
    for _ in range(5):
        make_store(api.database).insert([refused()])

    seen, query = [], {}
    while True:
        page = api.reader.get("/api/rejections", params={"limit": 2, **query}).json()
        seen += [each["id"] for each in page["rejections"]]
        if page["next"] is None:
            break
        query = {"after": page["next"]}

    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("query", [{"state": "gone"}, {"after": "x"}, {"since": "soon"}, {"body": "1"}, {"limit": 0}])
def test_invalid_queries_are_refused(api: Api, query: dict[str, Any]) -> None:
    """The response is 422."""
    assert api.reader.get("/api/rejections", params=query).status_code == 422

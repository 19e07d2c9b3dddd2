from datetime import timedelta
from typing import Any

import pytest

from runtime.queues import reads
from schemas.meld.read_outcome import Absent
from tests.service.conftest import Api
from tests.support import row_factory
from tests.support.scripted_meld import ScriptedReader, make_refetcher
from workers.refetch.retry_policy import MAX_ATTEMPTS

LATER = row_factory.TIME + timedelta(minutes=15)


def find(api: Api, **query: Any) -> dict[str, Any]:
    answer = api.reader.get("/api/failures", params=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def test_failed_reads_are_listed(api: Api) -> None:
    """With the reason and the time of a retry; pending and successful reads are not listed."""
    row_factory.store(
        api.database,
        row_factory.read_request("dead", trigger="reconcile", requested=1, failed_at=row_factory.TIME, error="404"),
        row_factory.read_request("retried", requested=1, failed_at=row_factory.TIME, error="500", due_at=LATER),
        row_factory.read_request("pending", requested=1, due_at=row_factory.TIME, error="500"),
        row_factory.read_request("read", requested=1, completed=1),
    )

    assert find(api) == {
        "failures": [
            {
                "connection_id": "dead",
                "trigger": "reconcile",
                "failed_at": "2026-01-02T03:04:05.678901Z",
                "error": "404",
                "retry_at": None,
            },
            {
                "connection_id": "retried",
                "trigger": "webhook",
                "failed_at": "2026-01-02T03:04:05.678901Z",
                "error": "500",
                "retry_at": "2026-01-02T03:19:05.678901Z",
            },
        ],
        "next": None,
    }


def test_pages_follow_the_cursor(api: Api) -> None:
    """Each failure is on one page, ordered by connection id; the last page has no cursor."""
    row_factory.store(
        api.database, *(row_factory.read_request(id_, requested=1, failed_at=row_factory.TIME) for id_ in "cabd")
    )

    first = find(api, limit=3)
    second = find(api, limit=3, after=first["next"])

    assert [row["connection_id"] for row in (*first["failures"], *second["failures"])] == list("abcd")
    assert (first["next"], second["next"]) == ("c", None)


@pytest.mark.parametrize("query", [{"limit": 0}, {"after": ""}, {"state": "dead"}])
def test_invalid_queries_are_refused(api: Api, query: dict[str, Any]) -> None:
    """A limit out of range, an empty cursor, an unknown filter."""
    assert api.reader.get("/api/failures", params=query).status_code == 422


def test_a_failed_read_without_a_webhook_is_listed(api: Api) -> None:
    """A connection that reconcile found missing and whose read is 404 has no failed webhook."""
    row_factory.store(api.database, row_factory.connection("gone"), row_factory.read_request("gone"))
    reader = ScriptedReader()
    reader.answers["gone"] = Absent()
    refetcher = make_refetcher(api.database, reader)

    for _ in range(MAX_ATTEMPTS):
        with api.database.write() as session:
            reads.request_reads(api.database, session, ["gone"], "reconcile")
        refetcher.refetch("gone")

    (failure,) = find(api)["failures"]
    assert (failure["connection_id"], failure["trigger"], failure["retry_at"]) == ("gone", "reconcile", None)
    assert failure["error"].startswith("Meld answered 404")

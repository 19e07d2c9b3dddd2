from typing import Any

import pytest

from schemas.push import PushResult
from tests.service.conftest import Api
from tests.support.scripted_consumer import ScriptedConsumer, emit, make_dispatcher, subscribe


@pytest.fixture
def event_ids(api: Api) -> list[str]:
    """Three events for two subscriptions: one acknowledged two of them, the other got none yet. Return their ids."""
    subscribe(api.database, "s1")
    subscribe(api.database, "s2", types=["connection.status_changed"])
    events = emit(api.database, "c1", "c1", "c2")
    consumer = ScriptedConsumer()
    consumer.answers[events[1]] = PushResult(503, "the consumer answered 503", "busy", retry_after=9)
    make_dispatcher(api.database, consumer).deliver("s1")
    return events


def find(api: Api, **query: Any) -> list[tuple[str, str, str]]:
    answer = api.reader.get("/api/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    rows = answer.json()["deliveries"]
    return sorted((row["subscription_id"], row["event_id"], row["state"]) for row in rows)


def test_every_attempt_is_shown(api: Api, event_ids: list[str]) -> None:
    """Time, status, error, and the beginning of the response."""
    page = api.reader.get("/api/deliveries", params={"event_id": event_ids[1], "subscription_id": "s1"}).json()
    (row,) = page["deliveries"]
    (outcome,) = row["outcomes"]

    assert (row["state"], row["attempts"], row["error"]) == ("pending", 1, "the consumer answered 503")
    assert (outcome["status"], outcome["error"], outcome["response"]) == (503, "the consumer answered 503", "busy")
    assert outcome["at"].endswith("Z")


def test_filters_combine(api: Api, event_ids: list[str]) -> None:
    """A delivery must match all given filters."""
    first, second, third = event_ids

    assert find(api, state="delivered") == [("s1", first, "delivered"), ("s1", third, "delivered")]
    assert find(api, subscription_id="s1", state="pending") == [("s1", second, "pending")]
    assert find(api, connection_id="c2") == [("s1", third, "delivered"), ("s2", third, "pending")]
    assert find(api, event_id=first) == [("s1", first, "delivered"), ("s2", first, "pending")]
    assert find(api, state="dead") == []
    assert find(api, connection_id="unknown") == []


def test_pages_follow_the_cursor(api: Api, event_ids: list[str]) -> None:
    """Each delivery is on one page; the last page has no cursor."""
    found: list[int] = []
    after: dict[str, str] = {}
    while True:
        page = api.reader.get("/api/deliveries", params={"limit": 4, **after}).json()
        found += [row["id"] for row in page["deliveries"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}

    assert len(found) == len(set(found)) == 2 * len(event_ids)
    assert found == sorted(found)


@pytest.mark.parametrize("query", [{"state": "lost"}, {"limit": 0}, {"limit": 1001}, {"after": "x"}, {"nonsense": 1}])
def test_invalid_queries_are_refused(api: Api, query: dict[str, Any]) -> None:
    """The response is 422."""
    assert api.reader.get("/api/deliveries", params=query).status_code == 422

from datetime import timedelta
from typing import Any

import pytest

from tests.service.conftest import Api
from tests.support import row_factory

STEPS: dict[str, dict[str, Any]] = {
    "pending": {},
    "processed": {"processed_at": row_factory.TIME},
    "ignored": {"ignored_at": row_factory.TIME, "connection_id": None},
    "failed": {"failed_at": row_factory.TIME, "error": "404"},
    "processed-after-failure": {"failed_at": row_factory.TIME, "processed_at": row_factory.TIME},
}


def ids(page: dict[str, Any]) -> list[str]:
    """Return the event ids of a page."""
    return [webhook["event_id"] for webhook in page["webhooks"]]


def test_a_webhook_has_the_fields_of_the_contract(api: Api) -> None:
    """Event id, times, count and state are listed, without raw body and headers."""
    row_factory.store(api.database, row_factory.webhook("e1", failed_at=row_factory.TIME, error="404", deliveries=3))

    time = "2026-01-02T03:04:05.678901Z"
    expected = {
        "event_id": "e1",
        "type": "BANK_LINKING_CONNECTION_STATUS_CHANGE",
        "connection_id": "c1",
        "account_id": "acct",
        "state": "failed",
        "occurred_at": None,
        "signed_at": time,
        "received_at": time,
        "deliveries": 3,
        "delivered_at": time,
        "processed_at": None,
        "ignored_at": None,
        "failed_at": time,
        "error": "404",
    }
    assert expected == api.reader.get("/api/webhooks/e1").json()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("pending", ["pending"]),
        ("processed", ["processed", "processed-after-failure"]),
        ("ignored", ["ignored"]),
        ("failed", ["failed"]),
    ],
)
def test_states_are_filtered(api: Api, state: str, expected: list[str]) -> None:
    """Each webhook has exactly one state."""
    row_factory.store(api.database, *(row_factory.webhook(name, **steps) for name, steps in STEPS.items()))

    page = api.reader.get("/api/webhooks", params={"state": state}).json()

    assert (expected, {state}) == (ids(page), {webhook["state"] for webhook in page["webhooks"]})


@pytest.mark.parametrize(("name", "value"), [("type", "ACCOUNT_REMOVED"), ("connection_id", "c2")])
def test_values_are_filtered(api: Api, name: str, value: str) -> None:
    """A filter keeps the items with exactly its value."""
    row_factory.store(api.database, row_factory.webhook("e1"), row_factory.webhook("e2", **{name: value}))

    assert ids(api.reader.get("/api/webhooks", params={name: value}).json()) == ["e2"]


def test_the_time_of_receipt_is_filtered(api: Api) -> None:
    """``since`` is inclusive, ``until`` is exclusive: adjacent ranges neither overlap nor leave a gap."""
    times = [row_factory.TIME + timedelta(seconds=seconds) for seconds in range(4)]
    row_factory.store(api.database, *(row_factory.webhook(f"e{n}", received_at=time) for n, time in enumerate(times)))

    page = api.reader.get("/api/webhooks", params={"since": times[1].isoformat(), "until": times[3].isoformat()}).json()

    assert ids(page) == ["e1", "e2"]


def test_pages_follow_the_cursor_without_gap_or_repeat(api: Api) -> None:
    """Oldest first, each once, with filters; the last page has no cursor."""
    row_factory.store(api.database, *(row_factory.webhook(f"e{n:02}", type="A" if n % 2 else "B") for n in range(12)))

    seen, cursor = [], ""
    while cursor is not None:
        after = {"after": cursor} if cursor else {}
        page = api.reader.get("/api/webhooks", params={"limit": 2, "type": "A", **after}).json()
        seen += ids(page)
        cursor = page["next"]

    assert seen == ["e01", "e03", "e05", "e07", "e09", "e11"]


def test_an_unknown_webhook_is_404(api: Api) -> None:
    """The error names the id."""
    response = api.reader.get("/api/webhooks/sha256:none")

    assert (response.status_code, "'sha256:none'" in response.json()["detail"]) == (404, True)

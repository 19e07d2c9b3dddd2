"""Lines of the timeline as text."""

from typing import Any

import pytest

from meldwatch.cli.item_lines import format_timeline_item
from schemas.api_resources import AuditEntry
from schemas.subscriptions import Delivery
from schemas.timeline import AuditItem, DeliveryItem
from tests.support import row_factory

WHEN = "2026-01-02 03:04:05"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "of 7 to s1  pending  0 attempts"),
        ({"attempts": 1, "delivered_at": row_factory.TIME}, f"of 7 to s1  delivered at {WHEN}  1 attempt"),
        ({"attempts": 9, "dead_at": row_factory.TIME, "error": "no"}, "of 7 to s1  dead  9 attempts: no"),
    ],
    ids=["pending", "delivered", "dead"],
)
def test_a_delivery_is_one_line(values: dict[str, Any], line: str) -> None:
    """Its position, subscription, state, attempts and error."""
    shown = DeliveryItem(at=row_factory.TIME, delivery=Delivery.from_row(row_factory.delivery(7, id=1, **values)))

    assert format_timeline_item(shown) == f"{WHEN}  delivery {line}"


def test_an_audit_entry_is_one_line() -> None:
    """Its action, operator and details."""
    shown = AuditItem(at=row_factory.TIME, act=AuditEntry.from_row(row_factory.audit_entry(id=1, details={"n": 1})))

    assert format_timeline_item(shown) == f'{WHEN}  act      connection.refreshed  by alice  {{"n": 1}}'

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col

from runtime.database import Database
from schemas.push import PushResult
from schemas.tables import DeliveryQueueRow, DeliveryRow
from tests.support.processes.handler_processes import ScriptedHandlers
from tests.support.scripted_consumer import ScriptedConsumer, deliveries, emit, make_dispatcher, subscribe
from workers.delivery.backoff import GIVE_UP_SECONDS
from workers.delivery.transport import DeliveryTransport


class RecordingSender:
    """An HTTP sender that acknowledges everything."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def send(self, url: str, _headers: Mapping[str, str], body: bytes) -> PushResult:
        """Record the push."""
        self.sent.append((url, body))
        return PushResult(200)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("python:mine.f", "mine.f"),
        ("python:", ""),
        ("https://python:8000/", None),
        ("pythonic:mine.f", None),
        ("ftp://x", None),
    ],
)
def test_each_goes_its_way(url: str, name: str | None) -> None:
    """Handler URLs run the handler; all others, also invalid ones, go to the HTTP sender."""
    push, run = RecordingSender(), ScriptedHandlers(PushResult(detail="called"))

    receipt = DeliveryTransport(http=push, handlers=run).send(url, {"webhook-id": "e1"}, b"{}")

    assert run.calls == ([] if name is None else [(name, b"{}")])
    assert push.sent == ([(url, b"{}")] if name is None else [])
    assert receipt == (PushResult(200) if name is None else PushResult(detail="called"))


def test_a_handler_that_raises_for_three_days_is_given_up(database: Database) -> None:
    """Like a consumer: the delivery is dead and kept, and the next event is handled."""
    subscribe(database, url="python:mine.f", secret="")
    dead, behind = emit(database, "c1", "c1")
    run = ScriptedHandlers(PushResult(detail="the handler raised KeyError", response="'x'"), only_for=f'"{dead}"')
    deliver = make_dispatcher(database, DeliveryTransport(http=ScriptedConsumer(), handlers=run))
    deliver.deliver("s1")
    now = datetime.now(UTC)
    with database.write() as session:
        tried = update(DeliveryRow).where(col(DeliveryRow.attempts) > 0)
        session.exec(tried.values(tried_at=now - timedelta(seconds=GIVE_UP_SECONDS + 1)))
        session.exec(update(DeliveryQueueRow).values(due_at=now - timedelta(hours=1)))
    deliver.deliver("s1")

    first, second = deliveries(database)
    assert (first.event_id, first.dead_at is not None, first.error) == (dead, True, "the handler raised KeyError")
    assert (second.event_id, second.delivered_at is not None, len(run.calls)) == (behind, True, 3)

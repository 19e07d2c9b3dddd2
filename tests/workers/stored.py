"""What a read leaves behind, as the tests of the workers look at it; and time that goes by at once."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from runtime.database import Database
from schemas import tables
from schemas.api import state_of
from schemas.events import Event
from schemas.tables import Connection, Gate, Job, Webhook
from workers.follow import SETTLE_SECONDS


def all_rows(database: Database, table: type[Any]) -> Sequence[Any]:
    with database.read() as session:
        return session.exec(select(table)).all()


def job_of(database: Database, connection_id: str) -> Job:
    with database.read() as session:
        return session.exec(select(Job).where(Job.connection_id == connection_id)).one()


def events_of(database: Database) -> list[Event]:
    with database.read() as session:
        rows = session.exec(select(tables.Event).order_by(col(tables.Event.position))).all()
        return [Event.from_row(row) for row in rows]


def mirror_of(database: Database, connection_id: str) -> Connection:
    with database.read() as session:
        return session.get_one(Connection, connection_id)


def make_due(database: Database) -> None:
    """Let the time pass that jobs and pauses wait for: move them into the past, and webhooks a little."""
    past = datetime.now(UTC) - timedelta(hours=1)
    settled = datetime.now(UTC) - timedelta(seconds=SETTLE_SECONDS + 1)
    with database.write() as session:
        session.exec(update(Job).where(col(Job.due_at).is_not(None)).values(due_at=past))
        session.exec(update(Gate).where(col(Gate.paused_until).is_not(None)).values(paused_until=past))
        session.exec(update(Webhook).where(col(Webhook.received_at) > settled).values(received_at=settled))


def states_of(database: Database) -> list[str]:
    with database.read() as session:
        return [state_of(row) for row in session.exec(select(Webhook).order_by(col(Webhook.id))).all()]

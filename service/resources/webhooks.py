"""Webhooks: what the inbox stored, told without the raw body and the signature."""

import operator
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import defer
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from runtime.database import Database
from runtime.security.encryption import Encryption
from schemas import tables
from schemas.api_queries import Query, WebhookQuery
from schemas.api_resources import Webhook
from schemas.api_responses import WebhookPage
from service.errors import UnknownError
from service.http.operation import Operation, ResponseSpec
from service.http.threadpool import ThreadPool
from service.ingest.webhook_state import in_state

FILTERS: tuple[tuple[str, str, Callable[[Any, Any], Any]], ...] = (
    ("type", "type", operator.eq),
    ("connection_id", "connection_id", operator.eq),
    ("since", "received_at", operator.ge),
    ("until", "received_at", operator.lt),
)
"""What is asked, of which column, and how the two compare."""


class Webhooks:
    """The operations on stored webhooks.

    Args:
        database: The database.
        threads: Where the work is done.
    """

    def __init__(self, *, database: Database, threads: ThreadPool) -> None:
        self._database = database
        self._threads = threads

    def find(self, query: WebhookQuery) -> WebhookPage:
        """Return a page of webhooks, in the order in which they were stored."""
        statement = stored().where(*_conditions(query)).order_by(col(tables.WebhookRow.id))
        with self._database.read() as session:
            # One more than the page tells whether there is a next one.
            rows = session.exec(statement.limit(query.limit + 1)).all()
        page = rows[: query.limit]
        return WebhookPage(
            webhooks=[Webhook.from_row(row) for row in page],
            next=str(page[-1].id) if len(rows) > query.limit else None,
        )

    def get(self, event_id: str) -> Webhook:
        """Return one webhook.

        Raises:
            UnknownError: Where none is stored under this id.
        """
        with self._database.read() as session:
            row = session.exec(stored().where(tables.WebhookRow.event_id == event_id)).one_or_none()
        if row is None:
            raise _unknown(event_id)
        return Webhook.from_row(row)

    def body(self, event_id: str, vault: Encryption) -> bytes:
        """Return the raw body of a webhook, as it came. For operators alone: no operation of the API tells it.

        Raises:
            UnknownError: Where none is stored under this id, or its body has been removed.
            VaultError: Where no key of the vault opens it.
        """
        columns = select(tables.WebhookRow.body, tables.WebhookRow.encrypted_with, tables.WebhookRow.emptied_at)
        with self._database.read() as session:
            row = session.exec(columns.where(tables.WebhookRow.event_id == event_id)).one_or_none()
        if row is None:
            raise _unknown(event_id)
        body, encrypted_with, emptied_at = row
        if emptied_at is not None:
            raise UnknownError(f"The body of {event_id[:100]!r} was removed at {emptied_at:%Y-%m-%dT%H:%M:%SZ}.")
        return vault.open_bytes(body, encrypted_with)

    def operations(self) -> tuple[Operation, ...]:
        """Return what can be asked of the API."""
        return (
            Operation(
                method="GET",
                path="/api/webhooks",
                name="listWebhooks",
                summary="The stored webhooks, in the order in which they were stored.",
                need="read",
                query=WebhookQuery,
                answers=(ResponseSpec(description="A page of webhooks.", shape=WebhookPage),),
                handle=self._threads.handler(lambda _request, query: self.find(query)),
            ),
            Operation(
                method="GET",
                path="/api/webhooks/{event_id}",
                name="getWebhook",
                summary="One stored webhook.",
                need="read",
                query=Query,
                answers=(ResponseSpec(description="The webhook.", shape=Webhook),),
                handle=self._threads.handler(lambda request, _query: self.get(request.path_params["event_id"])),
            ),
        )


def _unknown(event_id: str) -> UnknownError:
    return UnknownError(f"No webhook {event_id[:100]!r} is stored. See /api/webhooks for those that are.")


def _conditions(query: WebhookQuery) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        compare(getattr(tables.WebhookRow, column), value)
        for name, column, compare in FILTERS
        if (value := getattr(query, name)) is not None
    ]
    if query.state is not None:
        conditions.append(in_state(query.state))
    if query.after is not None:
        conditions.append(col(tables.WebhookRow.id) > int(query.after))
    return conditions


def stored() -> SelectOfScalar[tables.WebhookRow]:
    """Select without what is never sent out."""
    unsent = (tables.WebhookRow.body, tables.WebhookRow.headers)
    return select(tables.WebhookRow).options(*(defer(column, raiseload=True) for column in unsent))  # type: ignore[arg-type]

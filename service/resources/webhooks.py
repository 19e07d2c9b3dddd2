"""GET /api/webhooks, GET /api/webhooks/{event_id}: list and show stored webhooks, without body and signature."""

from functools import partial

from sqlalchemy.orm import defer
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from runtime.database import Database
from runtime.security.encryption import Encryption
from schemas.api_queries import Query, WebhookQuery
from schemas.api_resources import Webhook
from schemas.api_responses import WebhookPage
from schemas.tables import WebhookRow
from service.errors import NotFoundError
from service.http.operation import Operation, ResponseSpec
from service.http.pagination import PagedList, at_least, below, equal
from service.http.threadpool import ThreadPool
from service.ingest.webhook_state import in_state


def select_webhooks() -> SelectOfScalar[WebhookRow]:
    """Return a query for webhooks without the columns that are never sent out."""
    private = (WebhookRow.body, WebhookRow.headers)
    return select(WebhookRow).options(*(defer(column, raiseload=True) for column in private))  # type: ignore[arg-type]


WEBHOOKS = PagedList(
    statement=select_webhooks(),
    key=col(WebhookRow.id),
    query_model=WebhookQuery,
    filters={
        "state": in_state,
        "type": equal(WebhookRow.type),
        "connection_id": equal(WebhookRow.connection_id),
        "since": at_least(WebhookRow.received_at),
        "until": below(WebhookRow.received_at),
    },
    page_model=WebhookPage,
    to_item=Webhook.from_row,
)


def get_webhook(database: Database, event_id: str) -> Webhook:
    """Return one stored webhook.

    Raises:
        NotFoundError: If no webhook is stored under this id.
    """
    with database.read() as session:
        row = session.exec(select_webhooks().where(WebhookRow.event_id == event_id)).one_or_none()
    if row is None:
        raise _not_found(event_id)
    return Webhook.from_row(row)


def get_body(database: Database, event_id: str, encryption: Encryption) -> bytes:
    """Return the raw body of a webhook, as it was received. Only for the command line: no route of the API returns it.

    Raises:
        NotFoundError: If no webhook is stored under this id, or retention has removed its body.
        EncryptionError: If none of the keys decrypts it.
    """
    columns = select(WebhookRow.body, WebhookRow.encrypted_with, WebhookRow.emptied_at)
    with database.read() as session:
        row = session.exec(columns.where(WebhookRow.event_id == event_id)).one_or_none()
    if row is None:
        raise _not_found(event_id)
    body, encrypted_with, emptied_at = row
    if emptied_at is not None:
        raise NotFoundError(f"The body of {event_id[:100]!r} was removed at {emptied_at:%Y-%m-%dT%H:%M:%SZ}.")
    return encryption.decrypt_bytes(body, encrypted_with)


def operations(database: Database, threads: ThreadPool) -> tuple[Operation, ...]:
    """Return the API operations of stored webhooks."""
    return (
        WEBHOOKS.operation(
            partial(WEBHOOKS.get_page, database),
            threads,
            path="/api/webhooks",
            operation_id="listWebhooks",
            summary="List the stored webhooks, in the order in which they were stored.",
        ),
        Operation(
            method="GET",
            path="/api/webhooks/{event_id}",
            operation_id="getWebhook",
            summary="Get one stored webhook.",
            access="read",
            query_model=Query,
            responses=(ResponseSpec(description="The webhook.", model=Webhook),),
            handler=threads.handler(lambda request, _query: get_webhook(database, request.path_params["event_id"])),
        ),
    )


def _not_found(event_id: str) -> NotFoundError:
    return NotFoundError(f"No webhook {event_id[:100]!r} is stored. List the stored webhooks with /api/webhooks.")

"""GET /api/rejections: list the rejected webhooks that are stored, without body and signature (redaction)."""

from functools import partial
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import defer
from sqlmodel import col, select

from runtime.database import Database
from schemas.api_queries import RejectionQuery
from schemas.api_resources import Rejection, RejectionState
from schemas.api_responses import RejectionPage
from schemas.tables import RejectionRow
from service.http.operation import Operation
from service.http.pagination import PagedList, at_least, below, equal
from service.http.threadpool import ThreadPool
from service.ingest.signature import SIGNATURE_HEADER
from service.rejected.limits import is_whole


def in_state(state: RejectionState) -> ColumnElement[bool]:
    """Return the condition that a rejected webhook is in a state."""
    is_admitted = col(RejectionRow.admitted_at).is_not(None)
    return is_admitted if state == "admitted" else ~is_admitted


def to_rejection(row: RejectionRow) -> Rejection:
    """Return the public form of a row. It lacks the signature: with it, a reader could send the webhook."""
    computed: dict[str, Any] = {
        "state": "admitted" if row.admitted_at is not None else "refused",
        "likely": row.is_likely,
        "whole": is_whole(row.size),
        "headers": {name: value for name, value in row.headers.items() if name != SIGNATURE_HEADER.decode()},
    }
    copied = {name: getattr(row, name) for name in Rejection.model_fields if name not in computed}
    return Rejection.model_validate({**copied, **computed})


REJECTIONS = PagedList(
    statement=select(RejectionRow).options(defer(RejectionRow.body, raiseload=True)),  # type: ignore[arg-type]
    key=col(RejectionRow.id),
    query_model=RejectionQuery,
    filters={
        "reason": equal(RejectionRow.reason),
        "state": in_state,
        "since": at_least(RejectionRow.received_at),
        "until": below(RejectionRow.received_at),
    },
    page_model=RejectionPage,
    to_item=to_rejection,
)


def operations(database: Database, threads: ThreadPool) -> tuple[Operation, ...]:
    """Return the API operations of rejected webhooks."""
    return (
        REJECTIONS.operation(
            partial(REJECTIONS.get_page, database),
            threads,
            path="/api/rejections",
            operation_id="listRejections",
            summary="List the rejected webhooks that are stored, in the order of their first arrival.",
        ),
    )

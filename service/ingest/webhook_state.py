"""Webhook state as an SQL condition: pending, processed, ignored or failed."""

from sqlalchemy import ColumnElement, and_
from sqlmodel import col

from schemas import tables
from schemas.api_resources import WebhookState


def in_state(state: WebhookState) -> ColumnElement[bool]:
    """Return the condition that a webhook has this state, as in ``schemas.api_resources.get_webhook_state``."""
    processed, ignored, failed = (
        col(step).is_not(None)
        for step in (tables.WebhookRow.processed_at, tables.WebhookRow.ignored_at, tables.WebhookRow.failed_at)
    )
    conditions = {
        "processed": processed,
        "ignored": and_(~processed, ignored),
        "failed": and_(~processed, ~ignored, failed),
        "pending": and_(~processed, ~ignored, ~failed),
    }
    return conditions[state]

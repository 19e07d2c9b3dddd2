"""Lenient parsing of a webhook's payload into a hint: which connection to read again, and why.

A payload never becomes state, and a verified webhook is never refused for its form.
"""

import hashlib
from typing import Any

from runtime.security.lenient_json import ParseError, clean_text, parse_json
from schemas.meld.connection import MAX_ID_LENGTH, is_connection_id, parse_time_or_none
from schemas.meld.webhook import CONNECTION_DELETED, DELETED, STATUS_CHANGE, Hint, ReceivedWebhook


def parse_hint(body: bytes) -> Hint:
    """Return the hint of a webhook's body. Fields may be missing or null; an unreadable body gives an empty hint."""
    try:
        envelope = parse_json(body)
    except ParseError:
        return Hint()
    if not isinstance(envelope, dict):
        return Hint()
    payload = envelope.get("payload")
    fields: dict[str, Any] = payload if isinstance(payload, dict) else {}
    type_ = _text(envelope.get("eventType"))
    status = _status(type_, fields)
    return Hint(
        event_id=_id(envelope.get("eventId")),
        type=type_,
        account_id=_id(envelope.get("accountId")),
        connection_id=_id(fields.get("connectionId")),
        status=status,
        status_reason=_reason(fields) if status is not None and type_ == STATUS_CHANGE else None,
        occurred_at=parse_time_or_none(envelope.get("timestamp")),
    )


def webhook_event_id(webhook: ReceivedWebhook) -> str:
    """Return a webhook's unique id: Meld's ``eventId``, or ``sha256:`` and the body's digest if it has none."""
    return webhook.hint.event_id or "sha256:" + hashlib.sha256(webhook.body).hexdigest()


def _status(type_: str | None, payload: dict[str, Any]) -> str | None:
    if type_ == CONNECTION_DELETED:
        return DELETED
    return _text(payload.get("newStatus")) if type_ == STATUS_CHANGE else None


def _reason(payload: dict[str, Any]) -> str | None:
    """Return the announced reason: empty if the payload says that there is none, None if it does not name any."""
    if payload.get("newStatusReason", "") is None:
        return ""
    return _text(payload.get("newStatusReason"))


def _id(value: object) -> str | None:
    return value if is_connection_id(value) else None


def _text(value: object) -> str | None:
    return clean_text(value)[:MAX_ID_LENGTH] if isinstance(value, str) and value else None

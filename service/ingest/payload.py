"""Hint: what a verified body says, as far as it can be read. Nothing is taken as state, and nothing is refused."""

from typing import Any

from runtime.security.lenient_json import ParseError, clean, parse
from schemas.meld.connection import LONGEST_ID, is_id, lenient_time
from schemas.meld.webhook import CONNECTION_DELETED, DELETED, STATUS_CHANGE, Hint


def read_hint(body: bytes) -> Hint:
    """Read a webhook's body: any JSON object, any fields missing or null. What cannot be read gives an empty hint."""
    try:
        envelope = parse(body)
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
        occurred_at=lenient_time(envelope.get("timestamp")),
    )


def _status(type_: str | None, payload: dict[str, Any]) -> str | None:
    if type_ == CONNECTION_DELETED:
        return DELETED
    return _text(payload.get("newStatus")) if type_ == STATUS_CHANGE else None


def _reason(payload: dict[str, Any]) -> str | None:
    """Return the reason that is announced, empty for none; None where nothing is said of it."""
    if payload.get("newStatusReason", "") is None:
        return ""
    return _text(payload.get("newStatusReason"))


def _id(value: object) -> str | None:
    return value if is_id(value) else None


def _text(value: object) -> str | None:
    return clean(value)[:LONGEST_ID] if isinstance(value, str) and value else None

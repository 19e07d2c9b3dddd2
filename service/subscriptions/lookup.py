"""Find a subscription by its id or its name, and tell pushed ones from Python handlers."""

from typing import Any

from sqlmodel import Session, select

from schemas.handler_protocol import parse_handler_name
from schemas.tables import SubscriptionRow
from service.errors import ConflictError, InvalidBodyError, NotFoundError


def find_subscription(session: Session, *conditions: Any, is_locked: bool = False) -> SubscriptionRow | None:  # noqa: ANN401
    """Return the subscription that meets the conditions, or None; with ``is_locked``, lock its row."""
    statement = select(SubscriptionRow).where(*conditions)
    return session.exec(statement.with_for_update() if is_locked else statement).first()


def get_subscription(session: Session, key: str, *, is_locked: bool = False) -> SubscriptionRow:
    """Return a subscription, by its id or its name; with ``is_locked``, lock its row.

    Raises:
        NotFoundError: If no subscription has this id or name.
    """
    row = find_subscription(session, SubscriptionRow.id == key, is_locked=is_locked)
    row = row or find_subscription(session, SubscriptionRow.name == key, is_locked=is_locked)
    if row is None:
        raise NotFoundError(f"There is no subscription {key[:100]!r}. List the subscriptions with /api/subscriptions.")
    return row


def require_push_url(url: str) -> None:
    """Raise ``InvalidBodyError`` if a URL is that of a Python handler: handlers subscribe by themselves."""
    if parse_handler_name(url) is not None:
        raise InvalidBodyError(
            "'url': handlers in Python subscribe by themselves. Name their module in MELDWATCH_HANDLERS."
        )


def require_push(row: SubscriptionRow, reason: str) -> None:
    """Raise ``ConflictError`` with a reason if a subscription is a Python handler."""
    if parse_handler_name(row.url) is not None:
        raise ConflictError(f"{row.name} is a handler in Python. {reason}")

"""Manage subscriptions: create, list, get, update, delete, rotate the secret and redrive, each with an audit entry.

The API and the command line both use this. A transaction that creates, updates or deletes a subscription holds the lock
of the feed: no event is appended meanwhile. Therefore each event is fanned out to the subscription exactly once: by the
transaction that appends it, or by the backfill.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from sqlalchemy import delete
from sqlmodel import Session, col, select

from runtime import audit
from runtime.database import Database
from runtime.queues.deliveries import lock_feed
from runtime.security.encryption import Encryption
from schemas.api_queries import SubscriptionQuery
from schemas.api_responses import RedriveReceipt, SubscriptionPage
from schemas.subscriptions import NewSubscription, Subscription, SubscriptionChange, SubscriptionWithSecret
from schemas.tables import DeliveryQueueRow, DeliveryRow, SubscriptionRow
from service.errors import ConflictError, InvalidBodyError
from service.http.pagination import PagedList
from service.subscriptions import secrets
from service.subscriptions.backfill import MAX_BACKFILL_EVENTS, backfill
from service.subscriptions.lookup import find_subscription, get_subscription, require_push, require_push_url
from service.subscriptions.redrive import IS_DEAD, IS_PENDING, retry_now

SUBSCRIPTIONS = PagedList(
    statement=select(SubscriptionRow),
    key=col(SubscriptionRow.name),
    query_model=SubscriptionQuery,
    filters={},
    page_model=SubscriptionPage,
)


class UrlGuard(Protocol):
    """Decides which URLs events may be pushed to (SSRF)."""

    def check(self, url: str) -> None:
        """Raise ``UnsafeUrlError`` if nothing may be pushed to this URL."""


class SubscriptionManager:
    """Changes subscriptions for operators. The argument ``who`` of a method names the operator in the audit log.

    Args:
        database: The database.
        encryption: Encrypts the secrets.
        url_guard: Checks the URLs.
        new_secret: Generates a unique secret: ``whsec_...``.
        new_id: Generates a unique id.
        max_backfill_events: How many past events a new subscription may begin with.
    """

    def __init__(
        self,
        *,
        database: Database,
        encryption: Encryption,
        url_guard: UrlGuard,
        new_secret: Callable[[], str],
        new_id: Callable[[], str],
        max_backfill_events: int = MAX_BACKFILL_EVENTS,
    ) -> None:
        self._database = database
        self._encryption = encryption
        self._url_guard = url_guard
        self._new_secret = new_secret
        self._new_id = new_id
        self._max_backfill_events = max_backfill_events

    def create(self, new: NewSubscription, *, who: str) -> SubscriptionWithSecret:
        """Create a subscription, and append the past events that it begins with to its outbox.

        Raises:
            EncryptionError: If there is no key to encrypt its secret with.
            UnsafeUrlError: If nothing may be pushed to its URL.
            ConflictError: If a subscription has this name already.
            InvalidBodyError: If it begins too far in the past, or in the future, or has the URL of a handler.
        """
        require_push_url(new.url)
        secret = self._new_secret()
        encrypted_secret = self._encryption.encrypt(secret)
        self._url_guard.check(new.url)
        with self._database.write() as session:
            end = lock_feed(session)
            if find_subscription(session, SubscriptionRow.name == new.name) is not None:
                raise ConflictError(f"There is a subscription {new.name!r} already. Choose another name.")
            after = end if new.from_position is None else new.from_position
            if after > end:
                raise InvalidBodyError(f"'from_position': the last position of the feed is {end}.")
            row = SubscriptionRow(
                id=self._new_id(),
                name=new.name,
                url=new.url,
                types=list(dict.fromkeys(new.types)),
                secret=encrypted_secret,
                after_position=after,
                created_at=self._now(session),
            )
            session.add(row)
            session.flush()
            backfill(self._database, session, row, self._max_backfill_events)
            details = {"host": _get_host(row.url), "types": row.types, "after_position": after}
            self._audit(session, row, who, "subscription.created", **details)
            return SubscriptionWithSecret.with_secret(row, row.created_at, secret)

    def list_page(self, query: SubscriptionQuery) -> SubscriptionPage:
        """Return a page of subscriptions, ordered by name."""
        with self._database.read() as session:
            now = self._now(session)
            rows, cursor = SUBSCRIPTIONS.fetch(session, query)
        return SUBSCRIPTIONS.page([Subscription.from_row(row, now) for row in rows], cursor)

    def get(self, key: str) -> Subscription:
        """Return a subscription, by its id or its name.

        Raises:
            NotFoundError: If there is none.
        """
        with self._database.read() as session:
            return Subscription.from_row(get_subscription(session, key), self._now(session))

    def update(self, key: str, change: SubscriptionChange, *, who: str) -> Subscription:
        """Change a subscription. If it becomes active again, its pending deliveries are retried now.

        Raises:
            NotFoundError: If there is none.
            UnsafeUrlError: If nothing may be pushed to its new URL.
            InvalidBodyError: If its new URL is that of a handler.
            ConflictError: If it is a handler, and its URL or types shall change: its code defines them.
        """
        if change.url is not None:
            require_push_url(change.url)
            self._url_guard.check(change.url)
        with self._database.write() as session:
            lock_feed(session)
            row = get_subscription(session, key, is_locked=True)
            now = self._now(session)
            if change.types is not None or change.url is not None:
                require_push(row, "Its code defines which events it gets, by @on(...).")
            row.url = change.url if change.url is not None else row.url
            row.types = list(dict.fromkeys(change.types)) if change.types is not None else row.types
            if change.state == "paused":
                row.paused_at, row.disabled_at = row.paused_at or now, None
            if change.state == "active":
                row.paused_at = row.disabled_at = row.failing_since = row.error = row.woken_at = None
            session.flush()
            if change.state == "active":
                retry_now(self._database, session, row.id, IS_PENDING)
            for act, details in _list_actions(change):
                self._audit(session, row, who, act, **details)
            return Subscription.from_row(row, now)

    def rotate_secret(self, key: str, *, who: str) -> SubscriptionWithSecret:
        """Give a subscription a new secret. The previous one signs beside it for a day.

        Raises:
            NotFoundError: If there is none.
            EncryptionError: If there is no key to encrypt the secret with.
            ConflictError: If it is a handler.
        """
        secret = self._new_secret()
        encrypted_secret = self._encryption.encrypt(secret)
        with self._database.write() as session:
            row = get_subscription(session, key, is_locked=True)
            now = self._now(session)
            secrets.rotate_secret(session, row, encrypted_secret, self._encryption, now)
            self._audit(session, row, who, "subscription.rotated")
            return SubscriptionWithSecret.with_secret(row, now, secret)

    def redrive(self, key: str, *, who: str) -> RedriveReceipt:
        """Retry the dead deliveries of a subscription, before the deliveries behind them.

        Raises:
            NotFoundError: If there is none.
        """
        with self._database.write() as session:
            lock_feed(session)
            row = get_subscription(session, key, is_locked=True)
            row.woken_at = None
            session.flush()
            count = retry_now(self._database, session, row.id, IS_DEAD)
            if count:
                self._audit(session, row, who, "subscription.redriven", deliveries=count)
            return RedriveReceipt(subscription_id=row.id, redriven=count)

    def delete(self, key: str, *, who: str) -> None:
        """Delete a subscription and its deliveries.

        Raises:
            NotFoundError: If there is none.
        """
        with self._database.write() as session:
            lock_feed(session)
            row = get_subscription(session, key, is_locked=True)
            # In the lock order of runtime/queues/deliveries.py. A push under way then finds its queue deleted.
            for table in (DeliveryQueueRow, DeliveryRow):
                session.exec(delete(table).where(col(table.subscription_id) == row.id))
            session.delete(row)
            self._audit(session, row, who, "subscription.removed")

    def _audit(self, session: Session, row: SubscriptionRow, who: str, act: str, **details: Any) -> None:  # noqa: ANN401
        details = {"name": row.name, **details}
        audit.append_entry(self._database, session, who=who, act=act, subject=row.id, details=details)

    def _now(self, session: Session) -> datetime:
        return session.exec(select(self._database.now())).one()


def _list_actions(change: SubscriptionChange) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the audit entries of a change: the action and its details. A change without fields has none."""
    changed: dict[str, Any] = {}
    if change.url is not None:
        changed["host"] = _get_host(change.url)
    if change.types is not None:
        changed["types"] = list(change.types)
    if changed:
        yield "subscription.changed", changed
    if change.state is not None:
        yield ("subscription.paused" if change.state == "paused" else "subscription.resumed"), {}


def _get_host(url: str) -> str | None:
    """Return what the audit log keeps of a consumer's URL: the whole URL may be enough to push to the consumer."""
    return urlsplit(url).hostname

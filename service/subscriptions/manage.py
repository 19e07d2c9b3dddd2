"""Subscribe: what an operator does with subscriptions, over the API and the command line alike.

Who makes, changes or removes one holds the feed's counter meanwhile: nothing is appended, so each event is owed either
by the one who appends it or by the one who subscribes, never by neither and never by both.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, delete, func, insert, literal, update
from sqlmodel import Session, col, select

from runtime import audit
from runtime.database import Database
from runtime.queues.deliveries import hold_feed
from runtime.security.encryption import Encryption
from schemas import tables
from schemas.api_queries import SubscriptionQuery
from schemas.api_responses import RedriveReceipt, SubscriptionPage
from schemas.handler_protocol import name_of
from schemas.subscriptions import NewSubscription, Subscription, SubscriptionChange, SubscriptionWithSecret
from schemas.tables import DeliveryQueueRow, DeliveryRow, EventRow
from service.errors import BodyError, ConflictError, UnknownError
from service.subscriptions.backfill import owe_past

OVERLAP = timedelta(hours=24)
"""How long a secret still signs after another took its place."""

MOST_PREVIOUS = 5
MOST_EARLIER = 100_000
"""Events of the past that a subscription may begin with: they are owed in one transaction, which the feed waits for."""


class UrlCheck(Protocol):
    """Knows where a push may go."""

    def check(self, url: str) -> None:
        """Raise ``TargetError`` where it may not go to this URL."""


class SubscriptionManager:
    """The verbs of subscriptions. Each that changes one is told ``who`` does it, and notes the act.

    Args:
        database: The database.
        vault: Seals their secrets.
        target: Checks their URLs.
        new_secret: Makes a secret, never the same twice: ``whsec_...``.
        new_id: Makes an id, never the same twice.
        most_earlier: How many events of the past one may begin with.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: Encryption,
        target: UrlCheck,
        new_secret: Callable[[], str],
        new_id: Callable[[], str],
        most_earlier: int = MOST_EARLIER,
    ) -> None:
        self._database = database
        self._vault = vault
        self._target = target
        self._new_secret = new_secret
        self._new_id = new_id
        self._most_earlier = most_earlier

    def create(self, wish: NewSubscription, *, who: str) -> SubscriptionWithSecret:
        """Make a subscription, and owe it the events of the past that it asks for.

        Raises:
            VaultError: Where there is no key to seal its secret with.
            TargetError: Where nothing may be pushed to its URL.
            ConflictError: Where there is one of this name.
            BodyError: Where it asks for too much of the past, or for the future, or for a handler.
        """
        _refuse_url_of_handler(wish.url)
        secret = self._new_secret()
        sealed = self._vault.seal(secret)
        self._target.check(wish.url)
        with self._database.write() as session:
            end = hold_feed(session)
            if _find(session, tables.SubscriptionRow.name == wish.name) is not None:
                raise ConflictError(f"There is a subscription {wish.name!r} already. Choose another name.")
            after = end if wish.from_position is None else wish.from_position
            if after > end:
                raise BodyError(f"'from_position': the feed has come to {end} only.")
            row = tables.SubscriptionRow(
                id=self._new_id(),
                name=wish.name,
                url=wish.url,
                types=list(dict.fromkeys(wish.types)),
                secret=sealed,
                after_position=after,
                created_at=self._now(session),
            )
            session.add(row)
            session.flush()
            self._owe_the_past(session, row)
            details = {"host": _host(row.url), "types": row.types, "after_position": after}
            self._note(session, row, who, "subscription.created", **details)
            return SubscriptionWithSecret.with_secret(row, row.created_at, secret)

    def find(self, query: SubscriptionQuery) -> SubscriptionPage:
        """Return a page of subscriptions, in the order of their names."""
        statement = select(tables.SubscriptionRow).order_by(col(tables.SubscriptionRow.name))
        if query.after is not None:
            statement = statement.where(col(tables.SubscriptionRow.name) > query.after)
        with self._database.read() as session:
            now = self._now(session)
            # One more than the page tells whether there is a next one.
            rows = session.exec(statement.limit(query.limit + 1)).all()
        page = [Subscription.from_row(row, now) for row in rows[: query.limit]]
        return SubscriptionPage(subscriptions=page, next=page[-1].name if len(rows) > query.limit else None)

    def get(self, key: str) -> Subscription:
        """Return a subscription, by its id or its name.

        Raises:
            UnknownError: Where there is none.
        """
        with self._database.read() as session:
            return Subscription.from_row(_get(session, key), self._now(session))

    def change(self, key: str, wish: SubscriptionChange, *, who: str) -> Subscription:
        """Change a subscription. One that is made active gets what it missed, with all attempts anew.

        Raises:
            UnknownError: Where there is none.
            TargetError: Where nothing may be pushed to its new URL.
            BodyError: Where that would be a handler's.
            ConflictError: Where it is a handler's, and something is to change that the code says.
        """
        if wish.url is not None:
            _refuse_url_of_handler(wish.url)
            self._target.check(wish.url)
        with self._database.write() as session:
            hold_feed(session)
            row = _get(session, key, is_locked=True)
            now = self._now(session)
            if wish.types is not None or wish.url is not None:
                _refuse_handler(row, "Which events it gets is said in the code, by its @on(...).")
            row.url = wish.url if wish.url is not None else row.url
            row.types = list(dict.fromkeys(wish.types)) if wish.types is not None else row.types
            if wish.state == "paused":
                row.paused_at, row.disabled_at = row.paused_at or now, None
            if wish.state == "active":
                row.paused_at = row.disabled_at = row.failing_since = row.error = row.woken_at = None
            session.flush()
            if wish.state == "active":
                self._begin_anew(session, row.id, *_PENDING)
            for act, details in _acts_of(wish):
                self._note(session, row, who, act, **details)
            return Subscription.from_row(row, now)

    def rotate(self, key: str, *, who: str) -> SubscriptionWithSecret:
        """Give a subscription a new secret; the one before signs beside it for a day.

        Raises:
            UnknownError: Where there is none.
            VaultError: Where there is no key to seal the secret with.
            ConflictError: Where it is a handler's.
        """
        secret = self._new_secret()
        sealed = self._vault.seal(secret)
        with self._database.write() as session:
            row = _get(session, key, is_locked=True)
            _refuse_handler(row, "It has no secret: nothing is signed for it.")
            now = self._now(session)
            before = {"sealed": row.secret, "until": (now + OVERLAP).isoformat()}
            lasting = [old for old in row.previous_secrets if datetime.fromisoformat(old["until"]) > now]
            # One whose key is lost can sign nothing, and would hold up every push for as long as it should.
            usable = [old for old in (before, *lasting) if self._vault.opens(old["sealed"])]
            row.previous_secrets = usable[:MOST_PREVIOUS]
            row.secret = sealed
            session.flush()
            self._note(session, row, who, "subscription.rotated")
            return SubscriptionWithSecret.with_secret(row, now, secret)

    def redrive(self, key: str, *, who: str) -> RedriveReceipt:
        """Take the dead deliveries of a subscription up again, before what stands behind them.

        Raises:
            UnknownError: Where there is none.
        """
        with self._database.write() as session:
            hold_feed(session)
            row = _get(session, key, is_locked=True)
            row.woken_at = None
            session.flush()
            count = self._begin_anew(session, row.id, col(DeliveryRow.dead_at).is_not(None))
            if count:
                self._note(session, row, who, "subscription.redriven", deliveries=count)
            return RedriveReceipt(subscription_id=row.id, redriven=count)

    def remove(self, key: str, *, who: str) -> None:
        """Remove a subscription with all that it is owed.

        Raises:
            UnknownError: Where there is none.
        """
        with self._database.write() as session:
            hold_feed(session)
            row = _get(session, key, is_locked=True)
            # In the order of runtime/queues/deliveries.py. A push that is under way finds its lane gone.
            for table in (DeliveryQueueRow, DeliveryRow):
                session.exec(delete(table).where(col(table.subscription_id) == row.id))
            session.delete(row)
            self._note(session, row, who, "subscription.removed")

    def _owe_the_past(self, session: Session, row: tables.SubscriptionRow) -> None:
        wanted: list[ColumnElement[bool]] = [col(EventRow.position) > row.after_position]
        if row.types:
            wanted.append(col(EventRow.type).in_(row.types))
        count = session.exec(select(func.count()).select_from(EventRow).where(*wanted)).one()
        if count > self._most_earlier:
            most = self._most_earlier
            raise BodyError(
                f"'from_position': {count} events lie behind it, and no more than {most} can be owed at once."
                " Begin later, and read what is older from the feed."
            )
        connections = (
            select(literal(row.id), col(EventRow.connection_id), self._database.now()).where(*wanted).distinct()
        )
        session.exec(insert(DeliveryQueueRow).from_select(["subscription_id", "connection_id", "due_at"], connections))
        owe_past(self._database, session, row.id, *wanted)

    def _begin_anew(self, session: Session, subscription_id: str, *which: ColumnElement[bool]) -> int:
        """Have deliveries tried again from now on, as if they never had been; return how many had been."""
        mine = col(DeliveryRow.subscription_id) == subscription_id
        about = select(DeliveryRow.connection_id).where(mine, *which)
        lanes = update(DeliveryQueueRow).where(
            col(DeliveryQueueRow.subscription_id) == subscription_id, col(DeliveryQueueRow.connection_id).in_(about)
        )
        session.exec(lanes.values(due_at=self._database.now()))
        # Of those that wait, only the first of each lane was ever tried.
        tried = update(DeliveryRow).where(mine, *which, col(DeliveryRow.attempts) > 0)
        anew = tried.values(attempts=0, tried_at=None, dead_at=None)
        return session.exec(anew).rowcount

    def _note(self, session: Session, row: tables.SubscriptionRow, who: str, act: str, **details: Any) -> None:  # noqa: ANN401
        audit.note(self._database, session, who=who, act=act, subject=row.id, details={"name": row.name, **details})

    def _now(self, session: Session) -> datetime:
        return session.exec(select(self._database.now())).one()


_PENDING = (col(DeliveryRow.delivered_at).is_(None), col(DeliveryRow.dead_at).is_(None))


def _refuse_url_of_handler(url: str) -> None:
    if name_of(url) is not None:
        raise BodyError("'url': handlers in Python subscribe by themselves. Name their module in MELDWATCH_HANDLERS.")


def _refuse_handler(row: tables.SubscriptionRow, why: str) -> None:
    if name_of(row.url) is not None:
        raise ConflictError(f"{row.name} is a handler in Python. {why}")


def _acts_of(wish: SubscriptionChange) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a change amounts to, as it is noted: a wish for nothing is no act."""
    changed: dict[str, Any] = {}
    if wish.url is not None:
        changed["host"] = _host(wish.url)
    if wish.types is not None:
        changed["types"] = list(wish.types)
    if changed:
        yield "subscription.changed", changed
    if wish.state is not None:
        yield ("subscription.paused" if wish.state == "paused" else "subscription.resumed"), {}


def _host(url: str) -> str | None:
    """Return what is noted of a consumer's URL: whoever knows the whole of it may know enough to push there."""
    return urlsplit(url).hostname


def _find(session: Session, *conditions: Any, is_locked: bool = False) -> tables.SubscriptionRow | None:  # noqa: ANN401
    statement = select(tables.SubscriptionRow).where(*conditions)
    return session.exec(statement.with_for_update() if is_locked else statement).first()


def _get(session: Session, key: str, *, is_locked: bool = False) -> tables.SubscriptionRow:
    row = _find(session, tables.SubscriptionRow.id == key, is_locked=is_locked)
    row = row or _find(session, tables.SubscriptionRow.name == key, is_locked=is_locked)
    if row is None:
        raise UnknownError(f"There is no subscription {key[:100]!r}. See /api/subscriptions for those that there are.")
    return row

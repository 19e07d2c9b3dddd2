"""What is owed to subscriptions: how lanes are raised, by whoever writes deliveries.

Locks are taken in one order: the feed's counter, then subscriptions, then lanes, then deliveries. Who touches many
lanes at once holds the counter. Who sends holds no counter, and waits for one lane, the one that is settled; the next
is leased in the same transaction, but passed over where somebody has it locked. So none can deadlock another.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Executable, bindparam, update
from sqlmodel import Session, col, select

from runtime.database import Database
from schemas.tables import DeliveryQueueRow, FeedCounterRow, SubscriptionRow

Pair = tuple[str, str]
"""A subscription and a connection."""


def hold_feed(session: Session) -> int:
    """Let nobody append to the feed until this transaction ends; return the feed's last position."""
    counter = select(FeedCounterRow.value).where(FeedCounterRow.name == "feed").with_for_update()
    return session.exec(counter).one()


def raise_lanes(database: Database, session: Session, pairs: Collection[Pair]) -> None:
    """Note that there is something to send on each of these lanes. One that waits for another attempt goes on waiting.

    A lane that is just being emptied is locked by whoever does it: this waits, and finds it empty.
    """
    for subscription_id, connection_id in sorted(pairs):
        database.run(session, _raise, owed_to=subscription_id, about=connection_id)


def free(session: Session, token: str) -> None:
    """Give a lease back."""
    session.exec(update(DeliveryQueueRow).where(col(DeliveryQueueRow.lease_token) == token).values(_FREE))


def forget_calls(session: Session) -> None:
    """Free every lane: nobody is at work, and no call is on its way.

    For a process that starts and knows that it is alone: what another had leased or called for died with it.
    """
    session.exec(update(SubscriptionRow).where(col(SubscriptionRow.woken_at).is_not(None)).values(woken_at=None))
    session.exec(update(DeliveryQueueRow).where(col(DeliveryQueueRow.lease_token).is_not(None)).values(_FREE))


_FREE: dict[str, Any] = {"lease_token": None, "leased_until": None}


def _raise(database: Database) -> Executable:
    row = {"subscription_id": bindparam("owed_to"), "connection_id": bindparam("about"), "due_at": database.now()}
    return (
        database.insert(DeliveryQueueRow)
        .values(row)
        .on_conflict_do_update(
            index_elements=["subscription_id", "connection_id"],
            set_={"due_at": database.now()},
            where=col(DeliveryQueueRow.due_at).is_(None),
        )
    )

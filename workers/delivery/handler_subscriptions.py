"""Registration of Python event handlers: each gets a subscription, created once and updated to the types in the code.

Every worker does this when it starts, also several at the same time. As when an operator creates a subscription, the
transaction holds the feed's lock: an event is either appended later, and then fanned out to the new subscription, or
it is older than the subscription and not delivered to it.
"""

from collections.abc import Callable, Sequence

from sqlmodel import Session, select

from runtime import audit
from runtime.database import Database
from runtime.errors import SettingsError
from runtime.queues.deliveries import lock_feed
from schemas.handler_protocol import Handler, make_handler_url
from schemas.tables import SubscriptionRow

ACTOR = "MELDWATCH_HANDLERS"
"""The actor of the audit entries: no token's name, but the setting in which the operator lists the handlers."""


def register_handlers(
    database: Database, session: Session, handlers: Sequence[Handler], *, new_id: Callable[[], str]
) -> None:
    """Create the missing subscriptions of handlers, and update the event types of the others.

    A new subscription gets the events that are appended from now on.

    Args:
        database: The database.
        session: An open transaction.
        handlers: All handlers in the code.
        new_id: Returns a new unique id.

    Raises:
        SettingsError: If a subscription that is not a handler's already has the name of one.
    """
    end = lock_feed(session)
    now = session.exec(select(database.now())).one()
    for handler in handlers:
        url, types = make_handler_url(handler.name), [str(each) for each in handler.types]
        row = session.exec(select(SubscriptionRow).where(SubscriptionRow.url == url).with_for_update()).first()
        same_name = select(SubscriptionRow.id).where(SubscriptionRow.name == handler.name)
        if row is None and session.exec(same_name).first() is not None:
            raise SettingsError(
                f"MELDWATCH_HANDLERS has {handler.name}, but another subscription already has this name."
                " Rename the function, or remove that subscription."
            )
        if row is not None and row.types == types:
            continue
        act = "subscription.created" if row is None else "subscription.changed"
        if row is None:
            row = SubscriptionRow(
                id=new_id(),
                name=handler.name,
                url=url,
                types=types,
                secret="",
                after_position=end,
                created_at=now,
            )
            session.add(row)
        row.types = types
        session.flush()
        details = {"name": row.name, "types": types}
        audit.append_entry(database, session, who=ACTOR, act=act, subject=row.id, details=details)

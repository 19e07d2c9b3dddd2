"""Enlist: the subscriptions of handlers in Python, made and kept as the code has them.

Whoever starts does it, several at once too. As when an operator makes one, the feed's counter is held meanwhile: each
event is owed either by the one who appends it or by none, since it came before the handler.
"""

from collections.abc import Callable, Sequence

from sqlmodel import Session, select

from runtime import audit
from runtime.database import Database
from runtime.errors import SettingsError
from runtime.queues.deliveries import hold_feed
from schemas.handler_protocol import Handler, url_of
from schemas.tables import SubscriptionRow

WHO = "MELDWATCH_HANDLERS"
"""Who notes the act: nobody's token, but what an operator has set."""


def enlist(database: Database, session: Session, handlers: Sequence[Handler], *, new_id: Callable[[], str]) -> None:
    """Make the subscriptions of handlers that have none, beginning with what comes from now on; set the types of all.

    Args:
        database: The database.
        session: An open transaction.
        handlers: The handlers that there are.
        new_id: Makes an id, never the same twice.

    Raises:
        SettingsError: Where a subscription that is no handler's has the name of one.
    """
    end = hold_feed(session)
    now = session.exec(select(database.now())).one()
    for handler in handlers:
        url, types = url_of(handler.name), [str(each) for each in handler.types]
        row = session.exec(select(SubscriptionRow).where(SubscriptionRow.url == url).with_for_update()).first()
        is_taken = (
            session.exec(select(SubscriptionRow.id).where(SubscriptionRow.name == handler.name)).first() is not None
        )
        if row is None and is_taken:
            raise SettingsError(
                f"MELDWATCH_HANDLERS has {handler.name}, and there is a subscription of this name that is another's."
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
        audit.note(database, session, who=WHO, act=act, subject=row.id, details={"name": row.name, "types": types})

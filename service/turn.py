"""Turn: a lease in the database on what one process at a time may do, whichever process that is."""

from sqlalchemy import delete, or_, update
from sqlmodel import Session, col

from runtime.database import Database
from schemas.tables import Lease


class Turn:
    """The lease on one thing.

    Args:
        database: The database.
        name: The thing.
        holder: Names this process.
        seconds: How long a holder that has not been heard of keeps it.
    """

    def __init__(self, *, database: Database, name: str, holder: str, seconds: float) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._seconds = seconds

    def take(self, session: Session) -> bool:
        """Take the lease, or make it last; return whether it is ours."""
        now = self._database.now()
        mine = {"holder": self._holder, "until": self._database.now(self._seconds), "ran_at": now}
        lease = self._database.insert(Lease).values(name=self._name, **mine)
        is_free = or_(col(Lease.until) < now, col(Lease.holder) == self._holder)
        upsert = lease.on_conflict_do_update(index_elements=["name"], set_=mine, where=is_free)
        return session.exec(upsert.returning(col(Lease.name))).one_or_none() is not None

    def leave(self, session: Session) -> None:
        """Give the lease back, if it is ours."""
        mine = update(Lease).where(col(Lease.name) == self._name, col(Lease.holder) == self._holder)
        session.exec(mine.values(until=self._database.now()))

    def forget(self, session: Session) -> None:
        """Give the lease back of a thing that is over."""
        session.exec(delete(Lease).where(col(Lease.name) == self._name, col(Lease.holder) == self._holder))

"""Revision check: which revision the database has, and whether this version can use it. Does not import Alembic.

Every command and every readiness check asks this; only an upgrade needs Alembic, which is slow to import.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from runtime.database import translate_error

TABLE = "alembic_version"
FOLDER = Path(__file__).parent / "versions"


def list_known_revisions() -> list[str]:
    """Return all revisions of this version of the program, oldest first: files are named ``<revision>_<title>.py``."""
    return sorted(path.name.partition("_")[0] for path in FOLDER.glob("[0-9]*_*.py"))


def get_head_revision() -> str:
    """Return the newest revision of this version of the program."""
    return list_known_revisions()[-1]


def get_current_revision(engine: Engine) -> str | None:
    """Return the revision that the database has; None if it was never migrated.

    Raises:
        OutOfReachError: If the database does not answer.
    """
    with connect(engine) as connection:
        return read_revision(connection)


def is_current(engine: Engine) -> bool:
    """Return whether the database has the newest revision, or one that only a newer version of the program knows.

    A release migrates first and then replaces its processes one after the other. Until they are replaced, the old
    processes continue to work, since a migration leaves what the previous version needs.

    Raises:
        OutOfReachError: If the database does not answer.
    """
    revision = get_current_revision(engine)
    known = list_known_revisions()
    return revision is not None and (revision == known[-1] or revision not in known)


@contextmanager
def connect(engine: Engine) -> Iterator[Connection]:
    """Open a connection while the block runs.

    Raises:
        OutOfReachError: If the database does not answer.
    """
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise translate_error(error) from error


def read_revision(connection: Connection) -> str | None:
    """Return the revision that the database has; None if it was never migrated."""
    if not inspect(connection).has_table(TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {TABLE}")).scalar()  # noqa: S608 - a constant

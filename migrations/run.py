"""Migration runner: upgrade or downgrade a database's schema with Alembic.

Several processes may do so at once: the first migrates while the others wait for its lock, and then find nothing to
do. A failed migration leaves nothing behind on either database.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text

from migrations.revisions import connect, list_known_revisions, read_revision
from runtime.errors import UsageError

LOCK = 0x6D656C64
"""The key of PostgreSQL's advisory lock ("meld" in ASCII)."""


def upgrade(engine: Engine) -> None:
    """Bring the database to the newest revision, all or nothing.

    Args:
        engine: ``Database.engine``, whose transactions take SQLite's write lock at their beginning.

    Raises:
        OutOfReachError: If the database does not answer.
        UsageError: If a newer version of the program has migrated the database.
    """
    with _locked(engine) as connection:
        command.upgrade(_config(connection), "head")


def downgrade(engine: Engine, revision: str) -> None:
    """Take the database back to ``revision`` ("base" for an empty one), all or nothing. Its data is lost.

    Raises:
        OutOfReachError: If the database does not answer.
        UsageError: If a newer version of the program has migrated the database.
    """
    with _locked(engine) as connection:
        command.downgrade(_config(connection), revision)


@contextmanager
def _locked(engine: Engine) -> Iterator[Connection]:
    """Open the transaction that migrates; if another process migrates, wait for it first."""
    with connect(engine) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            # A migration, or waiting for another process's, may take longer than the program's statements may.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        revision = read_revision(connection)
        if revision is not None and revision not in list_known_revisions():
            raise UsageError(
                f"The database has revision {revision}, which this version does not know: a newer one migrated it."
            )
        yield connection


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    # The folder of this file, wherever it is installed. ConfigParser would interpolate a % in the path.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    return config

"""What the processes call: bring a database's schema to a revision, and say which one it has.

Several processes may do so at once: the first migrates while the others wait for its lock, and then find nothing to
do. A migration that fails leaves nothing behind on either database.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from runtime.database import translate_error
from runtime.errors import UsageError

LOCK = 0x6D656C64
"""The key of PostgreSQL's advisory lock ("meld" in ASCII)."""


def get_head_revision() -> str:
    """Return the newest revision that this version of the program knows."""
    revision = _scripts().get_current_head()
    assert revision is not None
    return revision


def get_current_revision(engine: Engine) -> str | None:
    """Return the revision that the database has; None where it has never been migrated.

    Raises:
        OutOfReachError: Where the database does not answer.
    """
    with _connected(engine) as connection:
        return _revision(connection)


def is_current(engine: Engine) -> bool:
    """Return whether the database has the newest revision, or one that only a newer version of the program knows.

    A release migrates first and replaces its processes one after the other: until they are replaced, the old ones
    work on, since a migration leaves what the version before it needs.

    Raises:
        OutOfReachError: Where the database does not answer.
    """
    revision = get_current_revision(engine)
    return revision is not None and (revision == get_head_revision() or revision not in _known())


def upgrade(engine: Engine) -> None:
    """Bring the database to the newest revision, all or nothing.

    Args:
        engine: ``Database.engine``, whose transactions take SQLite's write lock at their beginning.

    Raises:
        OutOfReachError: Where the database does not answer.
        UsageError: Where a newer version of the program has migrated the database.
    """
    with _locked(engine) as connection:
        command.upgrade(_config(connection), "head")


def downgrade(engine: Engine, revision: str) -> None:
    """Take the database back to ``revision`` ("base" for an empty one), all or nothing. What it stored is lost.

    Raises:
        OutOfReachError: Where the database does not answer.
        UsageError: Where a newer version of the program has migrated the database.
    """
    with _locked(engine) as connection:
        command.downgrade(_config(connection), revision)


@contextmanager
def _locked(engine: Engine) -> Iterator[Connection]:
    """Open the transaction that migrates; where another process migrates, wait for it first."""
    with _connected(engine) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            # A migration, and waiting for somebody else's, may take longer than the program's statements may.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        revision = _revision(connection)
        if revision is not None and revision not in _known():
            raise UsageError(
                f"The database has revision {revision}, which this version does not know: a newer one migrated it."
            )
        yield connection


@contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise translate_error(error) from error


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _known() -> set[str]:
    return {script.revision for script in _scripts().walk_revisions()}


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(None))


def _config(connection: Connection | None) -> Config:
    config = Config(attributes={"connection": connection})
    # Beside this file, wherever it is installed; a % in the path would be taken for an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    return config

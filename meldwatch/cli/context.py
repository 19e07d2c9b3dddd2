"""What every command starts with: settings, logging, an open database whose tables are current."""

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from migrations import revisions
from runtime import logs
from runtime.database import Database
from runtime.errors import MeldwatchError, OutOfReachError, SettingsError
from runtime.settings import Settings, find_unknown_variables, load_settings, require_settings

log = logs.get_logger(__name__)


class MigrationsError(MeldwatchError):
    """The database's tables are not those of this version."""


def load_command_settings(*required: str) -> Settings:
    """Read the settings and configure logging.

    Args:
        required: Names of settings that the command needs.

    Raises:
        SettingsError: Naming the setting that is missing or invalid.
    """
    settings = load_settings(os.environ)
    logs.configure(settings.log_format)
    for line in find_unknown_variables(os.environ):
        log.warning("unknown setting", detail=line)
    require_settings(settings, *required)
    return settings


def load_multi_process_settings(*required: str) -> Settings:
    """Read the settings of ``web``, ``worker`` and ``clock``: processes that share a database server and a broker.

    Raises:
        SettingsError: If the database or the broker serves one process only.
    """
    settings = load_command_settings(*required)
    if settings.is_sqlite:
        raise SettingsError(
            "MELDWATCH_DATABASE_URL names a SQLite file, which only one serving process may use. Run `meldwatch up`,"
            " or set it to postgresql://..."
        )
    if settings.is_memory_broker:
        raise SettingsError(
            "MELDWATCH_BROKER_URL is memory://, which works inside one process only. Run `meldwatch up`,"
            " or set it to redis://... or amqp://..."
        )
    return settings


@contextmanager
def open_settings_and_database(*required: str) -> Iterator[tuple[Settings, Database]]:
    """Read the settings, and open their database while the block runs.

    Args:
        required: Names of settings that the command needs.
    """
    settings = load_command_settings(*required)
    database = open_database(settings)
    try:
        yield settings, database
    finally:
        database.close()


def open_database(settings: Settings) -> Database:
    """Open the database for a command that runs beside the service.

    Raises:
        MigrationsError: If its tables are not those of this version.
        OutOfReachError: If it does not answer.
    """
    if settings.is_sqlite and not settings.sqlite_path.exists():
        raise SettingsError("MELDWATCH_DATABASE_URL names a SQLite file that does not exist. Run `meldwatch up` first.")
    database = Database(settings.database_url.get_secret_value(), pool_size=2)
    try:
        check_schema_is_current(database)
    except MeldwatchError:
        database.close()
        raise
    return database


def check_schema_is_current(database: Database) -> None:
    """Check that the database's tables are those of this version.

    Raises:
        MigrationsError: If they are not.
        OutOfReachError: If the database does not answer.
    """
    if not revisions.is_current(database.engine):
        raise MigrationsError("The database's tables are not those of this version. Run `meldwatch migrate`.")


def make_worker_notifier(settings: Settings, database: Database) -> Callable[[Collection[str]], None]:
    """Return what notifies workers of pending reads, for a command that runs beside the service.

    The scheduler wakes the workers that could not be notified.
    """
    # The broker's libraries are slow to import, and few commands notify workers.
    from runtime import broker as brokers
    from runtime.queues.reads import clear_notified

    def notify(connection_ids: Collection[str]) -> None:
        if settings.is_memory_broker:
            # Only the service's own process can put a message into its memory. Its scheduler finds these reads.
            with database.write() as session:
                clear_notified(session, connection_ids)
            return
        broker = brokers.connect(settings.broker_url.get_secret_value())
        with suppress(OutOfReachError):
            brokers.enqueue(broker, connection_ids)
        broker.close()

    return notify


def get_service_url(settings: Settings) -> str:
    """Return the URL of the service on this machine."""
    # An address that means "all addresses" cannot be connected to; nothing is bound here.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"

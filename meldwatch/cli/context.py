"""What every command begins with: the settings, the logs, a database whose tables are there."""

import os
import pwd
from collections.abc import Callable, Collection
from contextlib import suppress

from migrations import run as migrations
from runtime import broker as brokers
from runtime import logs
from runtime.database import Database
from runtime.errors import MeldwatchError, OutOfReachError, SettingsError
from runtime.queues.reads import take_back_calls
from runtime.settings import Settings, load, require, unknown

log = logs.get(__name__)


class MigrationsError(MeldwatchError):
    """The database's tables are not those of this version."""


def settings_for(*needs: str) -> Settings:
    """Read the settings, set the logs up, and check that what is needed is there.

    Raises:
        SettingsError: Naming what is missing or unusable.
    """
    settings = load(os.environ)
    logs.configure(settings.log_format)
    for line in unknown(os.environ):
        log.warning("unknown setting", detail=line)
    require(settings, *needs)
    return settings


def settings_for_many(*needs: str) -> Settings:
    """Read the settings of a process that is one of several; they can only meet over a server.

    Raises:
        SettingsError: Where database or broker are for one process alone.
    """
    settings = settings_for(*needs)
    if settings.is_sqlite:
        raise SettingsError(
            "MELDWATCH_DATABASE_URL names a SQLite file, which one serving process may use: run `meldwatch up`,"
            " or set it to postgresql://..."
        )
    if settings.is_memory_broker:
        raise SettingsError(
            "MELDWATCH_BROKER_URL is memory://, which stays inside one process: run `meldwatch up`,"
            " or set it to redis://... or amqp://..."
        )
    return settings


def open_database(settings: Settings) -> Database:
    """Return the database for a command that looks or acts beside the service.

    Raises:
        MigrationsError: Where its tables are not those of this version.
        OutOfReachError: Where it does not answer.
    """
    if settings.is_sqlite and not settings.sqlite_path.exists():
        raise SettingsError("MELDWATCH_DATABASE_URL names a SQLite file that is not there. Run `meldwatch up` first.")
    database = Database(settings.database_url.get_secret_value(), pool_size=2)
    try:
        check_tables(database)
    except MeldwatchError:
        database.close()
        raise
    return database


def check_tables(database: Database) -> None:
    """Check that the database's tables are those of this version.

    Raises:
        MigrationsError: Where they are not.
        OutOfReachError: Where it does not answer.
    """
    if not migrations.is_current(database.engine):
        raise MigrationsError("The database's tables are not those of this version. Run `meldwatch migrate`.")


def caller_beside(settings: Settings, database: Database) -> Callable[[Collection[str]], None]:
    """Return what calls workers, for a command that acts beside the service. Who cannot be called, the clock calls."""

    def call(connection_ids: Collection[str]) -> None:
        if settings.is_memory_broker:
            # Through memory:// nobody can be called but by the service's own process.
            with database.write() as session:
                take_back_calls(session, connection_ids)
            return
        broker = brokers.connect(settings.broker_url.get_secret_value())
        with suppress(OutOfReachError):
            brokers.call(broker, connection_ids)
        broker.close()

    return call


def operator_name() -> str:
    """Return by what name the acts of this command's user are noted; the environment has no say in it."""
    uid = os.geteuid()
    try:
        return f"cli:{pwd.getpwuid(uid).pw_name}"
    except KeyError:  # as in a container
        return f"cli:uid {uid}"


def own_url(settings: Settings) -> str:
    """Return where the service on this machine is to be found."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - asked for, not bound
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"

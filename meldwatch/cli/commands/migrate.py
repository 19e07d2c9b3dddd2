"""``meldwatch migrate``: upgrade the database's tables (schema migration)."""

import click

from meldwatch.cli.context import load_command_settings
from migrations import revisions, run
from runtime.database import Database


@click.command()
def migrate() -> None:
    """Upgrade the database's tables to this version.

    The command is safe to run at any time, and several may run at once.
    """
    settings = load_command_settings()
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        run.upgrade(database.engine)
    finally:
        database.close()
    click.echo(f"the database is at {revisions.get_head_revision()}")

"""``meldwatch up``, ``web``, ``worker`` and ``clock``: the long-running processes."""

import sys
from contextlib import suppress

import click

from meldwatch.cli.context import check_schema_is_current, load_command_settings, load_multi_process_settings
from meldwatch.process import supervisor
from meldwatch.process.composition import ProcessComposition
from meldwatch.process.generated_secrets import ensure_admin_token, ensure_encryption_key
from meldwatch.process.single_instance import hold_single_instance_lock
from migrations import run as migrations
from runtime import logs
from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.settings import Settings, require_settings

log = logs.get_logger(__name__)

host_option = click.option("--host", help="The address to listen on. [MELDWATCH_HOST]")
port_option = click.option("--port", type=click.IntRange(0, 65535), help="The port; 0: any free one. [MELDWATCH_PORT]")
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="The number of concurrent reads of Meld, and of concurrent pushes.",
)


@click.command()
@click.option("--demo", "is_demo", is_flag=True, help="Run beside a simulated Meld, on a temporary database.")
@host_option
@port_option
@threads_option
def up(*, is_demo: bool, host: str | None, port: int | None, threads: int) -> None:
    """Run everything in one process: web server, workers and scheduler."""
    if is_demo:
        from meldwatch.cli import demo

        sys.exit(demo.run(host=host, port=port, threads=threads))
    settings = load_command_settings("webhook_urls", "webhook_secrets", "meld_api_key")
    with hold_single_instance_lock(settings):
        sys.exit(_run_all(settings, host=host, port=port, threads=threads))


@click.command()
@host_option
@port_option
def web(*, host: str | None, port: int | None) -> None:
    """Run the web server: receive webhooks and serve the API.

    Any number of these processes may run.
    """
    settings = load_multi_process_settings("webhook_urls", "webhook_secrets")
    if not settings.encryption_keys:
        log.warning("webhook bodies are stored in clear", detail="MELDWATCH_ENCRYPTION_KEYS is not set")
    process = ProcessComposition(settings)
    server = process.add_web(host=host or settings.host, port=settings.port if port is None else port)
    log.info("web", url=server.url)
    sys.exit(_run(process))


@click.command()
@threads_option
def worker(*, threads: int) -> None:
    """Run the workers: read Meld, update the mirror, push events.

    Any number of these processes may run.
    """
    process = ProcessComposition(load_multi_process_settings("meld_api_key"), threads=threads)
    process.add_worker()
    log.info("worker", threads=threads)
    sys.exit(_run(process))


@click.command()
def clock() -> None:
    """Run the scheduler: one of several processes, of which one is active.

    The scheduler wakes workers for whatever is due, and runs periodic tasks.
    """
    settings = load_multi_process_settings()
    if settings.reconcile_every_seconds:
        require_settings(settings, "meld_api_key")
    process = ProcessComposition(settings)
    process.add_clock()
    log.info("clock")
    sys.exit(_run(process))


def _run_all(settings: Settings, *, host: str | None, port: int | None, threads: int) -> int:
    _migrate(settings)
    process = ProcessComposition(ensure_encryption_key(ensure_admin_token(settings)), threads=threads)
    if settings.is_sqlite:
        process.release_leases_of_previous_process()
    process.add_worker()
    process.add_clock()
    server = process.add_web(host=host or settings.host, port=settings.port if port is None else port)
    log.info("up", url=server.url)
    return _run(process)


def _migrate(settings: Settings) -> None:
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        migrations.upgrade(database.engine)
    finally:
        database.close()


def _run(process: ProcessComposition) -> int:
    try:
        # A database that is away now may be back soon, and readiness reports it. Wrong tables stay wrong.
        with suppress(OutOfReachError):
            check_schema_is_current(process.database)
        return supervisor.run(process.components)
    finally:
        process.close()

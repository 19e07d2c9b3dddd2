"""The commands that run until they are told to stop: up, web, worker, clock, simulate."""

import sys
from contextlib import suppress

import click

from meldwatch.cli import demo
from meldwatch.cli.context import check_tables, settings_for, settings_for_many
from meldwatch.process import supervisor
from meldwatch.process.composition import ProcessComposition
from meldwatch.process.generated_secrets import with_admin_token, with_encryption_key
from meldwatch.process.single_instance import alone
from migrations import run as migrations
from runtime import logs
from runtime.database import Database
from runtime.errors import OutOfReachError, SettingsError
from runtime.settings import Settings, require
from simulator.faults.settings import Faults
from simulator.server import Simulator

log = logs.get(__name__)

host_option = click.option("--host", help="The address to listen on. [MELDWATCH_HOST]")
port_option = click.option("--port", type=click.IntRange(0, 65535), help="The port; 0: any free one. [MELDWATCH_PORT]")
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="How many connections are read from Meld at once, and how many events are pushed at once.",
)


@click.command()
@click.option("--demo", "is_demo", is_flag=True, help="Run beside a simulated Meld, on a database that is thrown away.")
@host_option
@port_option
@threads_option
def up(*, is_demo: bool, host: str | None, port: int | None, threads: int) -> None:
    """Run everything in one process: server, workers and clock."""
    if is_demo:
        sys.exit(demo.run(host=host, port=port, threads=threads))
    settings = settings_for("webhook_urls", "webhook_secrets", "meld_api_key")
    with alone(settings):
        sys.exit(_up(settings, host=host, port=port, threads=threads))


def _up(settings: Settings, *, host: str | None, port: int | None, threads: int) -> int:
    _migrate(settings)
    served = ProcessComposition(with_encryption_key(with_admin_token(settings)), threads=threads)
    if settings.is_sqlite:
        served.start_alone()
    served.add_worker()
    served.add_clock()
    server = served.add_web(host=host or settings.host, port=settings.port if port is None else port)
    log.info("up", url=server.url)
    return _run(served)


def _migrate(settings: Settings) -> None:
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        migrations.upgrade(database.engine)
    finally:
        database.close()


@click.command()
@host_option
@port_option
def web(*, host: str | None, port: int | None) -> None:
    """Receive webhooks and serve the API; one of several processes."""
    settings = settings_for_many("webhook_urls", "webhook_secrets")
    if not settings.encryption_keys:
        log.warning("webhook bodies are stored in clear", detail="MELDWATCH_ENCRYPTION_KEYS is not set")
    served = ProcessComposition(settings)
    server = served.add_web(host=host or settings.host, port=settings.port if port is None else port)
    log.info("web", url=server.url)
    sys.exit(_run(served))


@click.command()
@threads_option
def worker(*, threads: int) -> None:
    """Read Meld and keep the mirror; one of several processes."""
    served = ProcessComposition(settings_for_many("meld_api_key"), threads=threads)
    served.add_worker()
    log.info("worker", threads=threads)
    sys.exit(_run(served))


@click.command()
def clock() -> None:
    """Call workers for what is due, whatever was lost; one of several processes, of which one is at it."""
    settings = settings_for_many()
    if settings.reconcile_every_seconds:
        require(settings, "meld_api_key")
    served = ProcessComposition(settings)
    served.add_clock()
    log.info("clock")
    sys.exit(_run(served))


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8010, show_default=True, help="0: any free one.")
@click.option("--connections", type=click.IntRange(0), default=20, show_default=True, help="How many to begin with.")
@click.option("--rate", type=click.FloatRange(0), default=1.0, show_default=True, help="Random acts a second.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed lives the same life.")
@click.option("--faults", "faults_text", default="", help='What goes wrong, such as "lost=0.1,doubled=0.2".')
def simulate(*, port: int, connections: int, rate: float, seed: int, faults_text: str) -> None:
    """Run a simulated Meld that sends webhooks to the first configured URL, signed with the first secret."""
    settings = settings_for("webhook_urls", "webhook_secrets")
    try:
        faults = Faults.parse(faults_text)
    except ValueError as error:
        raise SettingsError(f"--faults: {error}") from None
    simulator = Simulator(
        webhook_url=settings.webhook_urls[0],
        webhook_secret=settings.webhook_secrets[0].get_secret_value(),
        port=port,
        connections=connections,
        rate=rate,
        seed=seed,
        faults=faults,
    )
    try:
        simulator.start()
    except OSError as error:
        raise SettingsError(f"Cannot listen on port {port} ({error.strerror}). Set --port.") from None
    log.info("simulated Meld", url=simulator.url, webhooks_to=settings.webhook_urls[0])
    try:
        sys.exit(supervisor.run([]))
    finally:
        simulator.stop()


def _run(served: ProcessComposition) -> int:
    try:
        # A database that is away now may be there soon, and readiness says so; wrong tables stay wrong.
        with suppress(OutOfReachError):
            check_tables(served.database)
        return supervisor.run(served.parts)
    finally:
        served.close()


COMMANDS = (up, web, worker, clock, simulate)

"""``meldwatch simulate``: run a simulated Meld."""

import sys

import click

from meldwatch.cli.context import load_command_settings
from meldwatch.process import supervisor
from runtime import logs
from runtime.errors import SettingsError
from simulator.faults.settings import Faults
from simulator.server import Simulator

log = logs.get_logger(__name__)


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8010, show_default=True, help="0: any free port.")
@click.option("--connections", type=click.IntRange(0), default=20, show_default=True, help="How many at the start.")
@click.option("--rate", type=click.FloatRange(0), default=1.0, show_default=True, help="Random actions per second.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same random actions.")
@click.option("--faults", "faults_text", default="", help='Injected faults, such as "lost=0.1,doubled=0.2".')
def simulate(*, port: int, connections: int, rate: float, seed: int, faults_text: str) -> None:
    """Run a simulated Meld that sends signed webhooks.

    It sends them to the first configured URL, signed with the first secret.
    """
    settings = load_command_settings("webhook_urls", "webhook_secrets")
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

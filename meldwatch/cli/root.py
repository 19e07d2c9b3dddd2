"""The root command ``meldwatch``: imports a command only when it is called (lazy loading), and sets the exit code."""

import gc
from importlib import import_module
from typing import NamedTuple

import click

from meldwatch.cli.exit_codes import get_exit_code
from runtime.errors import MeldwatchError


class CommandEntry(NamedTuple):
    """Where a command is defined, and its line in the help of ``meldwatch``.

    Attributes:
        module: The module in ``meldwatch.cli.commands`` that has the command as an attribute of its name.
        help: The first sentence of the command's own help, so that ``--help`` imports no command. A test compares them.
    """

    module: str
    help: str


COMMANDS = {
    "audit": CommandEntry("audit", "Show what operators did, over the API and by commands."),
    "clock": CommandEntry("serve", "Run the scheduler: one of several processes, of which one is active."),
    "connections": CommandEntry("connections", "Show the mirrored connections; request reads of them."),
    "doctor": CommandEntry("doctor", "Check settings, database, broker, Meld's credentials and the webhook URLs."),
    "events": CommandEntry("events", "Show the feed of events."),
    "keys": CommandEntry("keys", "Manage the keys that encrypt stored data."),
    "migrate": CommandEntry("migrate", "Upgrade the database's tables to this version."),
    "prune": CommandEntry("prune", "Delete expired rows that nothing needs any more."),
    "rebuild": CommandEntry("rebuild", "Rebuild the mirror and the feed from the stored reads, and compare."),
    "reconcile": CommandEntry("reconcile", "Compare Meld's whole list with the mirror, and repair the drift."),
    "replay": CommandEntry("replay", "Replay stored webhooks or events."),
    "simulate": CommandEntry("simulate", "Run a simulated Meld that sends signed webhooks."),
    "subscriptions": CommandEntry("subscriptions", "Manage the consumers that events are pushed to."),
    "trigger": CommandEntry("trigger", "Send one signed webhook, as Meld would."),
    "up": CommandEntry("serve", "Run everything in one process: web server, workers and scheduler."),
    "web": CommandEntry("serve", "Run the web server: receive webhooks and serve the API."),
    "webhooks": CommandEntry("webhooks", "Show the stored webhooks; verify rejected ones again."),
    "worker": CommandEntry("serve", "Run the workers: read Meld, update the mirror, push events."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and ends with an exit code instead of a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - Click's signature
        """Import a command; None where there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        # Imports allocate a lot and free nothing: the garbage collector would only search it again and again.
        gc.disable()
        try:
            module = import_module(f"meldwatch.cli.commands.{COMMANDS[cmd_name].module}")
        finally:
            gc.enable()
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - Click's signature
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. An error that a person can act on is printed in one line, and decides the exit code."""
        try:
            return super().invoke(ctx)
        except MeldwatchError as error:
            click.echo(f"meldwatch: {error}", err=True)
            ctx.exit(get_exit_code(error))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="meldwatch")
def cli() -> None:
    """Mirror your Meld bank connections, and report each change once, in order."""

"""Every command of ``meldwatch``, and the one place where errors become exit codes."""

import click

from meldwatch.cli.commands import audit, connections, keys, migrate, rebuild, rejections, replay, serve, subscriptions
from runtime.errors import MeldwatchError, OutOfReachError


class CommandGroup(click.Group):
    """A group whose commands end with the contract's exit codes, and never with a traceback for a user's mistake."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; 2 for what the user can mend, 3 for what is out of reach."""
        try:
            return super().invoke(ctx)
        except OutOfReachError as error:
            click.echo(f"meldwatch: {error}", err=True)
            ctx.exit(3)
        except MeldwatchError as error:
            click.echo(f"meldwatch: {error}", err=True)
            ctx.exit(2)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="meldwatch")
def cli() -> None:
    """Keep a true local mirror of your Meld bank connections, and say once, in order, when one of them changes."""


for module in (serve, connections, subscriptions, migrate, rebuild, replay, keys, audit):
    for command in module.COMMANDS:
        cli.add_command(command)
for command in rejections.COMMANDS:
    connections.webhooks.add_command(command)

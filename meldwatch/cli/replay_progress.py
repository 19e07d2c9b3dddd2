"""Attend: a replay in an operator's command, with progress, until it is over, stopped, or told to end."""

import signal
import threading
from types import FrameType

import click

from meldwatch.cli import output
from meldwatch.cli.context import caller_beside, operator_name
from meldwatch.process.factories import holder_name
from runtime.database import Database
from runtime.settings import Settings
from schemas import tables
from schemas.replays import Replay, ReplayKind
from service.replay.manage import ReplayManager
from service.replay.runner import ReplayRunner

WORDS: dict[ReplayKind, str] = {"webhooks": "connections asked for", "events": "events owed again"}


def run(settings: Settings, database: Database, replays: ReplayManager, begun: Replay, *, as_json: bool) -> int:
    """Run a replay here, and print what came of it; return the exit code.

    SIGTERM and SIGINT stop it behind the step that it is at. One that is killed is resumed in the same way.
    """
    stopping = _stopping()
    resume = f"meldwatch replay {begun.kind} --resume {begun.id}"
    click.echo(f"replay {begun.id}; Ctrl-C stops it", err=True)
    player = ReplayRunner(
        database=database,
        call=caller_beside(settings, database),
        holder=holder_name(),
        wait=stopping.wait,
        is_attended=True,
    )
    with output.progress(WORDS[begun.kind]) as bar:

        def progress(row: tables.ReplayRow, waits: str | None) -> None:
            of_all = f"of {row.total} " if row.total is not None else ""
            bar(row.done, f"{of_all}{WORDS[begun.kind]}" + (f"; it waits: {waits}" if waits else ""))

        row = player.play(begun.id, progress)
    if stopping.is_set() and row.finished_at is None and row.is_attended:
        replays.stop(begun.id, who=operator_name())
    ended = replays.get(begun.id)
    output.one(ended, as_json=as_json)
    if ended.state == "stopped":
        click.echo(f"It was stopped. To go on: {resume}", err=True)
    elif not ended.attended:
        click.echo("The service goes on with it.", err=True)
    return 0 if ended.state == "finished" else 1


def _stopping() -> threading.Event:
    """Return what is set when this process is told to end."""
    stopping = threading.Event()

    def stop(_signum: int, _frame: FrameType | None) -> None:
        stopping.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    return stopping

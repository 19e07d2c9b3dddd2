"""Progress of a replay that an operator's command runs or watches: until it is over or stopped, or Ctrl-C stops it."""

import signal
import threading
from contextlib import suppress
from types import FrameType

import click

from meldwatch.cli import output
from meldwatch.cli.context import make_worker_notifier
from meldwatch.cli.operator_name import get_operator_name
from meldwatch.process.factories import make_lease_holder_name
from runtime.database import Database
from runtime.settings import Settings
from schemas.replays import Replay, ReplayKind
from schemas.tables import ReplayRow
from service.errors import ConflictError
from service.replay.manage import ReplayManager
from service.replay.runner import ReplayRunner

UNITS: dict[ReplayKind, str] = {"webhooks": "connections requested", "events": "events sent again"}


def run_replay(settings: Settings, database: Database, manager: ReplayManager, replay: Replay, *, as_json: bool) -> int:
    """Run a replay in this process, show its progress and print the result; return the exit code.

    If a process of the service holds the replay's lease, this process only watches. SIGTERM and SIGINT stop the replay
    after its present step. If this process is killed, the service runs the replay to its end.
    """
    is_stopping = _stop_on_signals()
    click.echo(f"replay {replay.id}; Ctrl-C stops it", err=True)
    runner = ReplayRunner(
        database=database,
        notify_workers=make_worker_notifier(settings, database),
        holder=make_lease_holder_name(),
        wait=is_stopping.wait,
    )
    unit = UNITS[replay.kind]
    with output.show_progress(unit) as show:

        def progress(row: ReplayRow, waiting_for: str | None) -> None:
            of_total = f"of {row.total} " if row.total is not None else ""
            show(row.done, f"{of_total}{unit}" + (f"; waiting: {waiting_for}" if waiting_for else ""))

        row = runner.run_or_watch(replay.id, progress)
    if is_stopping.is_set() and row.finished_at is None:
        with suppress(ConflictError):  # it has ended meanwhile
            manager.stop(replay.id, who=get_operator_name())
    ended = manager.get(replay.id)
    output.print_item(ended, as_json=as_json)
    if ended.state == "stopped":
        click.echo(f"The replay is stopped. To resume it: meldwatch replay {ended.kind} --resume {ended.id}", err=True)
    return 0 if ended.state == "finished" else 1


def _stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM or SIGINT sets."""
    is_stopping = threading.Event()

    def stop(_signum: int, _frame: FrameType | None) -> None:
        is_stopping.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    return is_stopping

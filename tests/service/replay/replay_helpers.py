"""Replays in tests: created and run as processes do it."""

import itertools
from collections.abc import Callable
from typing import Any

from sqlmodel import select

from runtime.database import Database
from schemas import tables
from schemas.replays import NewReplay, Replay
from service.replay.manage import ReplayManager
from service.replay.runner import STEPS, ReplayRunner, Steps

WHO = "alice"
_NUMBERS = itertools.count(1)


def replays_on(database: Database) -> ReplayManager:
    """Return a manager of replays."""
    return ReplayManager(database=database, new_id=lambda: f"replay-{next(_NUMBERS):06}")


def runner_on(
    database: Database,
    calls: list[str] | None = None,
    *,
    wait: Callable[[float], bool] = lambda _seconds: False,
    steps: Steps = STEPS,
) -> ReplayRunner:
    """Return a runner of replays, in a process of its own."""
    return ReplayRunner(
        database=database,
        notify_workers=(calls if calls is not None else []).extend,
        holder=f"process {next(_NUMBERS)}",
        wait=wait,
        steps=steps,
    )


def started(database: Database, kind: str = "webhooks", **wish: Any) -> Replay:
    """Create a replay; without a filter, of everything."""
    made = NewReplay.model_validate({"kind": kind, "all": True, **wish})
    return replays_on(database).create(made, who=WHO)


def row_of(database: Database, replay_id: str) -> tables.ReplayRow:
    """Return a replay's row."""
    with database.read() as session:
        return session.get_one(tables.ReplayRow, replay_id)


def acts(database: Database) -> list[tuple[str, str, str | None]]:
    """Return the audit entries: action, operator and subject."""
    with database.read() as session:
        return [(row.act, row.who, row.subject) for row in session.exec(select(tables.AuditRow)).all()]

"""Handlers for tests: modules of a user's, and the real processes that run them."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.handlers.process_pool import HandlerPool
from schemas.events import Event
from schemas.push import PushResult
from tests.support import row_factory

TAKEN = PushResult()
IN_FOLDER = "import os, runpy, sys; os.chdir(sys.argv.pop()); runpy.run_module('meldwatch.process.handler_main', run_name='__main__')"


def command_in(folder: Path) -> list[str]:
    """Return what starts a host as a worker would whose working directory is this one."""
    return [sys.executable, "-P", "-u", "-c", IN_FOLDER, str(folder)]


class ScriptedHandlers:
    """Handlers that keep what they are called with, and of which comes what was scripted; without a process."""

    def __init__(self, receipt: PushResult = TAKEN, *, only_for: str = "") -> None:
        self.calls: list[tuple[str, bytes]] = []
        self._receipt = receipt
        self._only_for = only_for.encode()

    def run(self, name: str, body: bytes) -> PushResult:
        """Keep it, and let come of it what was told."""
        self.calls.append((name, body))
        return self._receipt if self._only_for in body else PushResult()


@contextmanager
def hosts_in(folder: Path, *modules: str, **options: Any) -> Iterator[HandlerPool]:
    """Give what runs the handlers of modules in a folder."""
    usual: dict[str, Any] = {"command": command_in(folder), "modules": modules, "log_format": "json"}
    hosts = HandlerPool(**{**usual, **options})
    try:
        yield hosts
    finally:
        hosts.close()


def event(position: int = 1, **values: Any) -> bytes:
    """Return an event as it is sent out; with another type, or other fields."""
    document = json.loads(Event.from_row(row_factory.event(position)).model_dump_json())
    return json.dumps({**document, **values}).encode()
